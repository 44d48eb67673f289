//! As much of Anthropic's public API as a client needs to hold one
//! conversation: a message, streamed or not, a count of tokens, a list of models.
//! Asked to use belljar's tools, the model calls two of them, and says what they said.

use std::io;
use std::time::Duration;

use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::answers::{plain, set};
use crate::body::{Answer, Received, pieces};

/// What the model says, whatever it is asked.
const WORDS: [&str; 4] = ["The ", "jar ", "is ", "sealed."];
/// Whoever says this to the model has it call tools.
const USE_TOOLS: &str = "Use belljar's tools.";

/// What the model does in its turn.
enum Turn {
    Says(Vec<String>),
    Calls(&'static str, Value),
}

impl Turn {
    /// By how many tools have been called so far.
    fn of(request: &Value) -> Self {
        let says_words = Self::Says(WORDS.map(str::to_owned).to_vec());
        let has_tools = request["tools"].as_array().is_some_and(|tools| !tools.is_empty());
        if !has_tools || !request["messages"].to_string().contains(USE_TOOLS) {
            return says_words;
        }
        let blocks = request["messages"].as_array().into_iter().flatten().filter_map(|one| one["content"].as_array());
        let results: Vec<&Value> = blocks.flatten().filter(|block| block["type"] == "tool_result").collect();
        match results.as_slice() {
            [] => Self::Calls("mcp__belljar__send_message", json!({"text": "from the model"})),
            [_] => Self::Calls(
                "mcp__belljar__schedule_task",
                json!({"prompt": "look again", "schedule_type": "interval", "schedule_value": "3600000"}),
            ),
            results => Self::Says(results.iter().map(|result| format!("{}\n", result["content"])).collect()),
        }
    }

    fn content(&self) -> Value {
        match self {
            Self::Says(words) => json!([{"type": "text", "text": words.concat()}]),
            Self::Calls(name, input) => json!([{"type": "tool_use", "id": id(name), "name": name, "input": input}]),
        }
    }

    fn stop_reason(&self) -> &'static str {
        match self {
            Self::Says(_) => "end_turn",
            Self::Calls(..) => "tool_use",
        }
    }

    /// The content's events in a stream.
    fn events(&self) -> Vec<Value> {
        let (block, deltas) = match self {
            Self::Says(words) => {
                let delta = |word: &String| json!({"type": "text_delta", "text": word});
                (json!({"type": "text", "text": ""}), words.iter().map(delta).collect::<Vec<_>>())
            }
            Self::Calls(name, input) => (
                json!({"type": "tool_use", "id": id(name), "name": name, "input": {}}),
                vec![json!({"type": "input_json_delta", "partial_json": input.to_string()})],
            ),
        };
        let mut events = vec![json!({"type": "content_block_start", "index": 0, "content_block": block})];
        events.extend(deltas.iter().map(|delta| json!({"type": "content_block_delta", "index": 0, "delta": delta})));
        events.push(json!({"type": "content_block_stop", "index": 0}));
        events
    }
}

fn id(name: &str) -> String {
    format!("toolu_{}", name.replace("mcp__belljar__", ""))
}

/// Answers below `/v1` and `/api`.
pub async fn answer(parts: Parts, body: Received) -> io::Result<Response<Answer>> {
    let path = parts.uri.path().to_owned();
    let request: Value = serde_json::from_slice(&body.all().await).unwrap_or_default();
    let known = parts.headers.contains_key("x-api-key") || parts.headers.contains_key("authorization");
    let text = |status: StatusCode, value: Value| Ok(plain(status, "application/json", value.to_string()));
    if !known {
        let error = json!({"type": "authentication_error", "message": "x-api-key header is required"});
        return text(StatusCode::UNAUTHORIZED, json!({"type": "error", "error": error}));
    }
    let model = request["model"].as_str().unwrap_or("claude-test").to_owned();
    match path.as_str() {
        "/v1/messages" if request["stream"] == true => Ok(stream(model, &Turn::of(&request))),
        "/v1/messages" => text(
            StatusCode::OK,
            json!({
                "id": "msg_test", "type": "message", "role": "assistant", "model": model,
                "content": Turn::of(&request).content(),
                "stop_reason": Turn::of(&request).stop_reason(), "stop_sequence": null,
                "usage": {"input_tokens": 10, "output_tokens": 4},
            }),
        ),
        "/v1/messages/count_tokens" => text(StatusCode::OK, json!({"input_tokens": 10})),
        "/v1/models" => text(
            StatusCode::OK,
            json!({"data": [{"type": "model", "id": "claude-test", "display_name": "Test",
                "created_at": "2025-01-01T00:00:00Z"}], "has_more": false, "first_id": null, "last_id": null}),
        ),
        // Keys that an API shows or mints: a preset denies them.
        "/v1/organizations/api_keys" => text(StatusCode::OK, json!({"data": [{"id": "apikey_test"}]})),
        _ => {
            text(StatusCode::NOT_FOUND, json!({"type": "error", "error": {"type": "not_found_error", "message": path}}))
        }
    }
}

fn stream(model: String, turn: &Turn) -> Response<Answer> {
    let (sender, body) = pieces();
    let mut events = vec![json!({"type": "message_start", "message": {
            "id": "msg_test", "type": "message", "role": "assistant", "model": model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 10, "output_tokens": 1}}})];
    events.extend(turn.events());
    events.push(json!({"type": "message_delta", "delta": {"stop_reason": turn.stop_reason(), "stop_sequence": null},
        "usage": {"output_tokens": 4}}));
    events.push(json!({"type": "message_stop"}));
    tokio::spawn(async move {
        for event in events {
            let name = event["type"].as_str().unwrap_or_default();
            if !sender.send(format!("event: {name}\ndata: {event}\n\n")).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = Response::new(body);
    set(answer.headers_mut(), "content-type", "text/event-stream");
    set(answer.headers_mut(), "request-id", "req_test");
    answer
}
