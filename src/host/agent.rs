//! How the host process speaks with an agent that runs: what it writes, and what it
//! reads as the end of a turn.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::{AgentKind, GroupConfig};

/// Longest line of an agent, in bytes, and all between two markers.
pub const LONGEST_LINE: usize = 16 << 20;
/// Longest answer, in bytes; what is longer is cut, and says so.
/// A channel's line holds it, whatever JSON makes of it.
pub const LONGEST_ANSWER: usize = 480 << 10;
const BEGIN: &str = "---NANOCLAW_OUTPUT_START---";
const END: &str = "---NANOCLAW_OUTPUT_END---";

/// How the agent of a group is called and spoken with.
#[derive(Debug, Clone)]
pub struct Agent {
    /// How it is spoken with.
    pub kind: AgentKind,
    /// Program and arguments; empty for what the image or the configuration says.
    pub command: Vec<String>,
}

/// What an agent is told at first.
#[derive(Debug, Clone)]
pub struct Briefing<'a> {
    /// The prompt.
    pub prompt: &'a str,
    /// The session to go on with.
    pub session: Option<&'a str>,
    /// The group.
    pub group: &'a str,
    /// The chat.
    pub chat: &'a str,
    /// Whether the group is main.
    pub is_main: bool,
    /// For a task: its script, if it has one.
    pub task: Option<Option<&'a str>>,
    /// What the assistant is called.
    pub assistant: &'a str,
}

/// The end of a turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What the agent says.
    pub result: Option<String>,
    /// The session that it is in.
    pub session: Option<String>,
    /// Why the turn failed.
    pub error: Option<String>,
}

impl Agent {
    /// As the group is configured: what a command is, where nothing says, its name tells.
    pub fn of(config: &GroupConfig) -> Self {
        let command = config.command.clone().unwrap_or_default();
        let program = command.first().map(|program| program.rsplit('/').next().unwrap_or(program));
        let kind = config.agent.unwrap_or(match program {
            None | Some("claude") => AgentKind::Claude,
            Some(_) => AgentKind::Script,
        });
        let command = match (kind, command.is_empty()) {
            // What the agent may do is belljar's to say, which nobody is asked about in there.
            (AgentKind::Claude, true) => {
                ["claude", "-p", "--permission-mode", "bypassPermissions"].map(str::to_owned).to_vec()
            }
            _ => command,
        };
        Self { kind, command }
    }

    /// The command of a run.
    pub fn command(&self, session: Option<&str>) -> Vec<String> {
        let mut command = self.command.clone();
        if self.kind == AgentKind::Claude {
            let streams = ["--input-format", "stream-json", "--output-format", "stream-json", "--verbose"];
            command.extend(streams.map(str::to_owned));
            if let Some(session) = session {
                command.extend(["--resume".to_owned(), session.to_owned()]);
            }
        }
        command
    }

    /// What it reads first, and whether its stdin stays open for more.
    pub fn first_input(&self, briefing: &Briefing<'_>) -> (String, Stdin) {
        match self.kind {
            AgentKind::Claude => (claude_line(briefing.prompt), Stdin::Open),
            AgentKind::Script => (briefing.prompt.to_owned(), Stdin::Closed),
            AgentKind::Nanoclaw => {
                let mut input = json!({
                    "prompt": briefing.prompt,
                    "groupFolder": briefing.group,
                    "chatJid": briefing.chat,
                    "isMain": briefing.is_main,
                    "assistantName": briefing.assistant,
                });
                if let Some(session) = briefing.session {
                    input["sessionId"] = session.into();
                }
                if let Some(script) = briefing.task {
                    input["isScheduledTask"] = true.into();
                    if let Some(script) = script {
                        input["script"] = script.into();
                    }
                }
                (input.to_string(), Stdin::Closed)
            }
        }
    }
}

/// Whether more can be written to the agent's stdin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    /// It stays open.
    Open,
    /// It ends after the first input.
    Closed,
}

/// A message of a person's, as Claude Code reads it (its documentation: "Streaming JSON input").
pub fn claude_line(prompt: &str) -> String {
    json!({ "type": "user", "message": { "role": "user", "content": [{ "type": "text", "text": prompt }] } })
        .to_string()
        + "\n"
}

#[derive(Deserialize)]
struct ClaudeLine {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    is_error: bool,
    #[serde(default)]
    result: Option<String>,
    #[serde(default)]
    subtype: Option<String>,
    #[serde(default)]
    session_id: Option<String>,
}

#[derive(Deserialize)]
struct NanoclawOutput {
    status: String,
    #[serde(default)]
    result: Option<Value>,
    #[serde(default, rename = "newSessionId")]
    new_session_id: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

/// Reads an agent's stdout.
#[derive(Debug)]
pub struct Reader {
    kind: AgentKind,
    /// What came between the markers, or all of a script's.
    collected: Option<String>,
    /// Some of it was left out.
    is_cut: bool,
}

impl Reader {
    /// Of an agent of this kind.
    pub fn new(kind: AgentKind) -> Self {
        Self { kind, collected: (kind == AgentKind::Script).then(String::new), is_cut: false }
    }

    /// One line, without its end; the end of a turn, where it is one.
    pub fn line(&mut self, line: &str) -> Option<Outcome> {
        match self.kind {
            AgentKind::Script => {
                self.collect(line);
                None
            }
            AgentKind::Claude => {
                let line: ClaudeLine =
                    serde_json::from_str(line).ok().filter(|line: &ClaudeLine| line.kind == "result")?;
                let failed = line.is_error || line.subtype.as_deref().is_some_and(|subtype| subtype != "success");
                let why = || line.result.clone().or(line.subtype.clone()).unwrap_or_else(|| "an error".to_owned());
                Some(match failed {
                    true => Outcome { error: Some(why()), session: None, result: None },
                    false => Outcome { result: line.result, session: line.session_id, error: None },
                })
            }
            AgentKind::Nanoclaw => match line.trim_end() {
                BEGIN => {
                    (self.collected, self.is_cut) = (Some(String::new()), false);
                    None
                }
                END if self.is_cut => {
                    self.collected = None;
                    Some(Outcome { error: Some(too_long()), ..Outcome::default() })
                }
                END => {
                    let output = self.collected.take()?;
                    Some(match serde_json::from_str::<NanoclawOutput>(output.trim()) {
                        Ok(output) => outcome_of(output),
                        Err(error) => Outcome {
                            error: Some(format!("the output is not understood: {error}")),
                            ..Outcome::default()
                        },
                    })
                }
                line => {
                    self.collect(line);
                    None
                }
            },
        }
    }

    /// The end of stdout: a script's turn, when it has ended well.
    pub fn end(&mut self) -> Option<Outcome> {
        let text = self.collected.take().filter(|_| self.kind == AgentKind::Script)?;
        Some(Outcome { result: Some(text), ..Outcome::default() })
    }

    /// A line that is too long: only a script's can be cut.
    pub fn cut_line(&mut self, line: &str) -> Option<Outcome> {
        if self.kind == AgentKind::Claude {
            return Some(Outcome { error: Some(too_long()), ..Outcome::default() });
        }
        self.collect(line);
        self.is_cut = true;
        None
    }

    fn collect(&mut self, line: &str) {
        if let Some(collected) = &mut self.collected {
            let room = LONGEST_LINE.saturating_sub(collected.len());
            self.is_cut |= line.len() > room;
            collected.push_str(beginning(line, room));
            collected.push('\n');
        }
    }
}

/// At most so many bytes of a text, and no half character.
pub fn beginning(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

fn too_long() -> String {
    format!("it says more than {} MiB at once", LONGEST_LINE >> 20)
}

fn outcome_of(output: NanoclawOutput) -> Outcome {
    let result = output.result.filter(|result| !result.is_null()).map(|result| match result {
        Value::String(text) => text,
        other => other.to_string(),
    });
    let error = (output.status == "error").then(|| output.error.unwrap_or_else(|| "an error".to_owned()));
    Outcome { result: result.filter(|_| error.is_none()), session: output.new_session_id, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_a_nanoclaw_runner_are_read_between_its_markers() {
        let mut reader = Reader::new(AgentKind::Nanoclaw);
        assert_eq!(reader.line("[agent-runner] noise"), None);
        assert_eq!(reader.line(END), None);
        assert_eq!(reader.line(BEGIN), None);
        assert_eq!(reader.line(r#"{"status":"success","result":"hi","newSessionId":"s1"}"#), None);
        let outcome = reader.line(END).expect("a turn");
        assert_eq!((outcome.result.as_deref(), outcome.session.as_deref()), (Some("hi"), Some("s1")));
        reader.line(BEGIN);
        reader.line(r#"{"status":"success","result":null}"#);
        assert_eq!(reader.line(END), Some(Outcome::default()));
        reader.line(BEGIN);
        reader.line(r#"{"status":"error","result":"x","error":"no"}"#);
        assert_eq!(reader.line(END), Some(Outcome { error: Some("no".to_owned()), ..Outcome::default() }));
        reader.line(BEGIN);
        reader.line("{");
        assert!(reader.line(END).expect("a turn").error.is_some());
        assert_eq!(reader.end(), None);
    }

    #[test]
    fn a_result_of_claude_ends_a_turn_and_other_lines_do_not() {
        let mut reader = Reader::new(AgentKind::Claude);
        for line in [r#"{"type":"system","subtype":"init","session_id":"s"}"#, r#"{"type":"assistant"}"#, "x", "{}"] {
            assert_eq!(reader.line(line), None, "{line}");
        }
        let outcome =
            reader.line(r#"{"type":"result","subtype":"success","is_error":false,"result":"a","session_id":"s"}"#);
        assert_eq!(outcome.and_then(|outcome| outcome.result).as_deref(), Some("a"));
        let outcome = reader.line(r#"{"type":"result","subtype":"error_during_execution","is_error":true}"#);
        assert_eq!(outcome.and_then(|outcome| outcome.error).as_deref(), Some("error_during_execution"));
    }

    #[test]
    fn what_a_command_is_its_name_tells_where_nothing_else_does() {
        let of = |agent, command: &[&str]| {
            let command = (!command.is_empty()).then(|| command.iter().map(|&word| word.to_owned()).collect());
            Agent::of(&GroupConfig { agent, command, ..GroupConfig::default() })
        };
        assert_eq!(of(None, &[]).kind, AgentKind::Claude);
        assert_eq!(of(None, &["/opt/bin/claude", "-p"]).kind, AgentKind::Claude);
        assert_eq!(of(None, &["sh", "-c", "cat"]).kind, AgentKind::Script);
        assert_eq!(of(Some(AgentKind::Nanoclaw), &["node", "runner.js"]).kind, AgentKind::Nanoclaw);
        let command = of(None, &[]).command(Some("s1"));
        assert!(
            command.starts_with(&["claude".to_owned(), "-p".to_owned()])
                && command.ends_with(&["--resume".to_owned(), "s1".to_owned()])
        );
        assert_eq!(of(None, &["cat"]).command(Some("s1")), ["cat"]);
    }
}
