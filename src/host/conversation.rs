//! One live run of a group's agent: it answers messages, and follow-ups go into it; or
//! it does a task. Each end of a turn becomes a reply and the end of the messages that
//! it answers, together.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::Host;
use super::agent::{Agent, Briefing, LONGEST_ANSWER, LONGEST_LINE, Outcome, Reader, Stdin, beginning, claude_line};
use super::child::{Ended, Kept, Order, Run, refusal};
use super::format;
use super::lines::{End, read_line};
use super::queue::is_waited_for;
use crate::config::{AgentKind, Config, MAIN};
use crate::error::{Error, Result, printable};
use crate::ipc::Place;
use crate::store::{Message, Task, TaskEnd, Turn, wall_now};

/// The name of runs that answer messages and do tasks.
pub const RUN_NAME: &str = "host";
/// Messages that an agent is given at once, and bytes of text.
pub const AT_ONCE: (usize, usize) = (200, 256 << 10);
/// How long an agent that was told to end may take, and one that is written to.
const GRACE: Duration = Duration::from_secs(20);
/// How long an agent may take to read what it is told at first.
const BRIEFING: Duration = Duration::from_secs(120);
const IDLE_CLOSE: Duration = Duration::from_secs(60);
const TURN_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Of what the agent prints beside its answers, so many bytes are kept.
const KEPT_ERRORS: usize = 16 << 10;
const LONGEST_SESSION: usize = 256;

/// What an agent is given, to be answered by one turn.
struct Batch {
    messages: Vec<i64>,
    /// The file in `input/`, where it went there.
    file: Option<String>,
    /// Turns that had ended when it was given.
    after: u64,
    /// Turns that end before its own can: with the one that went on then.
    before: u64,
}

/// Which session a run goes on with, and whether the group does with its.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Session {
    OfGroup,
    ItsOwn,
}

/// A run that goes on.
pub struct Conversation {
    host: Rc<Host>,
    nudge: Rc<Notify>,
    place: Rc<Place>,
    group: String,
    chat: String,
    agent: Agent,
    zone: String,
    run: Run,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
    errors: JoinHandle<Kept>,
    reader: Reader,
    line: Vec<u8>,
    waiting: VecDeque<Batch>,
    turns: u64,
    quiet_since: Instant,
    /// When it was told to end.
    closing: Option<Instant>,
    session: Session,
    /// What a task's agent has said.
    task: Option<TaskEnd>,
    failure: Option<String>,
    idle_close: Duration,
    turn_timeout: Duration,
}

/// Where a conversation takes place.
pub struct Scene<'a> {
    /// The host process.
    pub host: &'a Rc<Host>,
    /// Says that more waits for the group.
    pub nudge: Rc<Notify>,
    /// The group.
    pub group: &'a str,
}

impl Conversation {
    /// Gives messages of one chat to the group's agent.
    pub async fn answer(scene: Scene<'_>, messages: &[Message]) -> Result<Self> {
        let config = Config::load(&scene.host.dirs.config_file())?;
        let prompt = format::prompt(messages, &config.host.zone());
        let chat = messages.first().map(|message| message.chat.clone()).unwrap_or_default();
        let session = scene.session(Session::OfGroup).await?;
        let briefing = Briefing {
            prompt: &prompt,
            session: session.as_deref(),
            group: scene.group,
            chat: &chat,
            is_main: scene.group == MAIN,
            task: None,
            assistant: config.host.assistant(),
        };
        let mut conversation = Self::start(&scene, &config, &briefing).await?;
        conversation.waiting.push_back(Batch { messages: numbers(messages), file: None, after: 0, before: 0 });
        Ok(conversation)
    }

    /// Gives a task to the group's agent.
    pub async fn work(scene: Scene<'_>, task: &Task) -> Result<Self> {
        let config = Config::load(&scene.host.dirs.config_file())?;
        let kind = Agent::of(&config.for_group(&task.group)).kind;
        if task.script.is_some() && kind != AgentKind::Nanoclaw {
            return Err(Error::refused(format!("task {}: the group's agent takes no script", task.id))
                .hint(format!("[group.{}] agent = \"nanoclaw\", or belljar task cancel {}", task.group, task.id)));
        }
        let prompt = match kind {
            // Its runner says so itself; a script is told nothing else.
            AgentKind::Nanoclaw | AgentKind::Script => task.prompt.clone(),
            AgentKind::Claude => {
                format!("[A scheduled task, sent by the host and by nobody in the chat.]\n\n{}", task.prompt)
            }
        };
        let which = if task.context_mode == "group" { Session::OfGroup } else { Session::ItsOwn };
        let session = scene.session(which).await?;
        let briefing = Briefing {
            prompt: &prompt,
            session: session.as_deref(),
            group: &task.group,
            chat: &task.chat,
            is_main: task.group == MAIN,
            task: Some(task.script.as_deref()),
            assistant: config.host.assistant(),
        };
        let mut conversation = Self::start(&scene, &config, &briefing).await?;
        conversation.task = Some(TaskEnd::default());
        conversation.session = which;
        conversation.waiting.push_back(Batch { messages: Vec::new(), file: None, after: 0, before: 0 });
        Ok(conversation)
    }

    async fn start(scene: &Scene<'_>, config: &Config, briefing: &Briefing<'_>) -> Result<Self> {
        let Scene { host, nudge, group } = scene;
        let agent = Agent::of(&config.for_group(group));
        let place = host.place(group)?;
        place.take_back_close();
        place.take_back_messages();
        super::board::refresh(host).await;
        let environment = vec![format!("BELLJAR_CHAT={}", briefing.chat), format!("BELLJAR_GROUP={group}")];
        let command = agent.command(briefing.session);
        let order = Order { group, name: Some(RUN_NAME), environment, command: &command };
        let (run, mut streams) = Run::start(host, &order)?;
        let errors = tokio::task::spawn_local(Kept::read(streams.stderr.take(), KEPT_ERRORS));
        let (input, keep) = agent.first_input(briefing);
        let mut stdin = streams.stdin.take();
        if let Some(stdin) = &mut stdin {
            // One that has gone or does not want to know says so by its end; half a prompt is none.
            if timeout(BRIEFING, stdin.write_all(input.as_bytes())).await.is_err() {
                run.terminate();
                let what = format!("the agent of group {group} does not read its prompt");
                return Err(Error::failed(what).hint("an agent reads its stdin to the end before it writes much"));
            }
        }
        Ok(Self {
            host: Rc::clone(host),
            nudge: Rc::clone(nudge),
            place,
            group: (*group).to_owned(),
            chat: briefing.chat.to_owned(),
            zone: config.host.zone(),
            run,
            stdin: stdin.filter(|_| keep == Stdin::Open),
            stdout: streams.stdout.take().map(BufReader::new),
            errors,
            reader: Reader::new(agent.kind),
            agent,
            line: Vec::new(),
            waiting: VecDeque::new(),
            turns: 0,
            quiet_since: Instant::now(),
            closing: None,
            session: Session::OfGroup,
            task: None,
            failure: None,
            idle_close: config.host.idle_close.unwrap_or(IDLE_CLOSE),
            turn_timeout: config.host.turn_timeout.unwrap_or(TURN_TIMEOUT),
        })
    }

    /// Goes on until the agent has ended; what a task's agent has said. An error:
    /// something was not answered, and waits again.
    pub async fn go_on(mut self) -> Result<TaskEnd> {
        let nudge = Rc::clone(&self.nudge);
        loop {
            let deadline = self.deadline();
            tokio::select! {
                more = next_line(&mut self.stdout, &mut self.line) => {
                    if !more {
                        break;
                    }
                    let line = std::mem::take(&mut self.line);
                    let text = String::from_utf8_lossy(&line);
                    let outcome =
                        if line.len() > LONGEST_LINE { self.reader.cut_line(&text) } else { self.reader.line(&text) };
                    if let Some(outcome) = outcome {
                        self.turn(outcome).await;
                        self.give_more().await;
                    }
                }
                () = nudge.notified() => self.give_more().await,
                () = sleep_until(deadline) => self.is_late(),
            }
        }
        self.end().await
    }

    fn deadline(&self) -> Instant {
        match self.closing {
            Some(since) => since + GRACE,
            None if self.waiting.is_empty() => self.quiet_since + self.idle_close,
            None => self.quiet_since + self.turn_timeout,
        }
    }

    fn is_late(&mut self) {
        if self.closing.is_some() {
            self.run.terminate();
            self.closing = Some(Instant::now() + self.turn_timeout);
        } else if self.waiting.is_empty() {
            self.close();
        } else {
            self.failure = Some(format!("no answer within {} s", self.turn_timeout.as_secs()));
            self.run.terminate();
            self.closing = Some(Instant::now());
        }
    }

    /// Tells the agent that nothing more comes.
    fn close(&mut self) {
        drop(self.stdin.take());
        if self.agent.kind == AgentKind::Nanoclaw
            && let Err(error) = self.place.say_close()
        {
            self.host.events.tell_error("ipc", &error);
        }
        self.closing.get_or_insert(Instant::now());
    }

    /// The end of a turn.
    async fn turn(&mut self, outcome: Outcome) {
        self.quiet_since = Instant::now();
        if let Some(error) = outcome.error {
            // What follows may be the answer to the next one.
            let is_read = self.waiting.front().is_some_and(|batch| self.is_read(batch));
            let failed = if is_read { self.waiting.pop_front() } else { None };
            if let Some(batch) = failed {
                self.give_back(batch.messages).await;
            }
            self.failure = Some(error);
            self.close();
            return;
        }
        // A NanoClaw runner also says so when it has nothing to say, to tell its session.
        let is_quiet = outcome.result.is_none() && self.agent.kind == AgentKind::Nanoclaw;
        // One turn can have several results: the second answers nothing that is not read yet.
        let is_read = self.waiting.front().is_some_and(|batch| self.is_read(batch));
        let answered = if is_read { self.waiting.pop_front() } else { None };
        if !is_quiet || answered.is_some() {
            self.turns += 1;
        }
        let reply = outcome.result.as_deref().and_then(format::for_people).map(shortened);
        let session = outcome.session.filter(|id| is_session(id) && self.session == Session::OfGroup);
        if let Some(task) = &mut self.task {
            task.replies.extend(reply);
            task.session = session.or(task.session.take());
            self.close();
            return;
        }
        let turn = Turn {
            answered: answered.as_ref().map(|batch| batch.messages.clone()).unwrap_or_default(),
            reply: reply.map(|text| (self.chat.clone(), text)),
            session,
        };
        let group = self.group.clone();
        if let Err(error) = self.host.with_store(move |store| store.settle(&group, &turn)).await {
            self.host.events.tell_error("reply", &error);
            self.failure = Some(error.with_causes());
            self.waiting.extend(answered);
            self.close();
        }
        self.host.ring();
    }

    /// Whether what is given by a file has been taken, in a turn after the one that
    /// went on then.
    fn is_read(&self, batch: &Batch) -> bool {
        match &batch.file {
            None => true,
            Some(file) => batch.before <= self.turns && !self.place.is_unread(file),
        }
    }

    /// Gives the agent what came in meanwhile; an idle one makes room for other work.
    async fn give_more(&mut self) {
        let closed = self.closing.is_some() || self.task.is_some() || self.agent.kind == AgentKind::Script;
        if closed {
            return;
        }
        // Who writes faster than the agent answers does not keep others waiting.
        if self.turns > 0 && is_waited_for(&self.host, &self.group, &self.chat).await {
            if self.waiting.is_empty() {
                self.close();
            }
            return;
        }
        let (group, chat) = (self.group.clone(), self.chat.clone());
        let taken = self.host.with_store(move |store| store.give(&group, Some(&chat), AT_ONCE)).await;
        let messages = match taken {
            Ok(messages) => messages,
            Err(error) => return self.host.events.tell_error("messages", &error),
        };
        if messages.is_empty() {
            return;
        }
        let prompt = format::prompt(&messages, &self.zone);
        let numbers = numbers(&messages);
        let (given, file) = match self.agent.kind {
            AgentKind::Nanoclaw => {
                // In the order of their names.
                let name = format!("{:015}-{:010}.json", wall_now(), numbers.first().copied().unwrap_or_default());
                (self.place.say(&name, &prompt).is_ok(), Some(name))
            }
            _ => (self.write(&claude_line(&prompt)).await, None),
        };
        if given {
            self.quiet_since = Instant::now();
            let before = self.turns + u64::from(!self.waiting.is_empty());
            self.waiting.push_back(Batch { messages: numbers, file, after: self.turns, before });
        } else {
            self.failure = Some("the agent takes nothing more".to_owned());
            self.give_back(numbers).await;
            self.close();
        }
    }

    async fn write(&mut self, text: &str) -> bool {
        let Some(stdin) = &mut self.stdin else { return false };
        matches!(timeout(GRACE, stdin.write_all(text.as_bytes())).await, Ok(Ok(())))
    }

    async fn give_back(&self, messages: Vec<i64>) {
        if let Err(error) = self.host.with_store(move |store| store.give_back(&messages)).await {
            self.host.events.tell_error("messages", &error);
        }
    }

    async fn end(mut self) -> Result<TaskEnd> {
        drop(self.stdin.take());
        let errors = (&mut self.errors).await.unwrap_or_default().text().0;
        let ended = self.run.end().await;
        self.place.take_back_close();
        let exit = match ended {
            Ok(Ended::Ran(receipt)) => receipt,
            Ok(Ended::Refused) => {
                self.leave(|_| false).await;
                return Err(refusal(&errors));
            }
            Err(error) => {
                self.leave(|_| false).await;
                return Err(error);
            }
        };
        let well = exit["exit_code"] == 0;
        if well && let Some(outcome) = self.reader.end() {
            self.turn(outcome).await;
        }
        // What an agent took into the turn of another message is answered with it.
        let (turns, place) = (self.turns, Rc::clone(&self.place));
        let fine = well && self.failure.is_none();
        let is_answered = |batch: &Batch| {
            fine && turns > batch.after && batch.file.as_deref().is_none_or(|file| !place.is_unread(file))
        };
        let unanswered = self.leave(is_answered).await;
        if let Some(failure) = self.failure.take() {
            return Err(Error::failed(format!("the agent of group {} has failed", self.group)).because(failure));
        }
        let said_nothing = self.task.as_ref().is_some_and(|task| task.replies.is_empty());
        if unanswered || (said_nothing && !well) {
            let cause = exit["cause"].as_str().unwrap_or("it has ended").to_owned();
            let last = errors.lines().rev().find(|line| !line.trim().is_empty()).map(printable);
            let error = Error::failed(format!("the agent of group {} has not answered", self.group)).because(cause);
            return Err(match last {
                Some(line) => error.because(line),
                None => error,
            });
        }
        Ok(self.task.take().unwrap_or_default())
    }

    /// Lets go of what waits for a turn still; whether something of it is unanswered.
    async fn leave(&mut self, is_answered: impl Fn(&Batch) -> bool) -> bool {
        let mut unanswered = false;
        for batch in std::mem::take(&mut self.waiting) {
            if is_answered(&batch) {
                let (group, turn) = (self.group.clone(), Turn { answered: batch.messages, ..Turn::default() });
                if let Err(error) = self.host.with_store(move |store| store.settle(&group, &turn)).await {
                    self.host.events.tell_error("messages", &error);
                }
                continue;
            }
            if let Some(file) = &batch.file {
                self.place.take_back(file);
            }
            // What came in while it ended is no failure of its.
            unanswered |= batch.file.is_none() || self.task.is_some();
            self.give_back(batch.messages).await;
        }
        unanswered
    }
}

impl Scene<'_> {
    async fn session(&self, which: Session) -> Result<Option<String>> {
        let group = self.group.to_owned();
        match which {
            Session::OfGroup => self.host.with_store(move |store| store.session(&group)).await,
            Session::ItsOwn => Ok(None),
        }
    }
}

fn numbers(messages: &[Message]) -> Vec<i64> {
    messages.iter().map(|message| message.seq).collect()
}

/// What is too long for people is cut, and says so.
fn shortened(answer: String) -> String {
    match answer.len() {
        0..=LONGEST_ANSWER => answer,
        all => format!("{}\n[cut by belljar: {all} bytes]", beginning(&answer, LONGEST_ANSWER)),
    }
}

/// An agent's word for its session becomes an argument of its next run.
fn is_session(id: &str) -> bool {
    !id.is_empty() && id.len() <= LONGEST_SESSION && !id.starts_with('-') && id.chars().all(|c| c.is_ascii_graphic())
}

/// Whether there is another line. The last one may have no end.
async fn next_line(stream: &mut Option<BufReader<ChildStdout>>, line: &mut Vec<u8>) -> bool {
    let Some(stream) = stream else { return false };
    read_line(stream, line, LONGEST_LINE).await == End::Line || !line.is_empty()
}
