//! As much of Anthropic's public API as a client needs to hold one
//! conversation: a message, streamed or not, a count of tokens, a list of models.

use std::io;
use std::time::Duration;

use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::answers::{plain, set};
use crate::body::{Answer, Received, pieces};

/// What the model says, whatever it is asked.
const WORDS: [&str; 4] = ["The ", "jar ", "is ", "sealed."];

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
        "/v1/messages" if request["stream"] == true => Ok(stream(model)),
        "/v1/messages" => text(
            StatusCode::OK,
            json!({
                "id": "msg_test", "type": "message", "role": "assistant", "model": model,
                "content": [{"type": "text", "text": WORDS.concat()}],
                "stop_reason": "end_turn", "stop_sequence": null,
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

fn stream(model: String) -> Response<Answer> {
    let (sender, body) = pieces();
    let mut events = vec![
        json!({"type": "message_start", "message": {
            "id": "msg_test", "type": "message", "role": "assistant", "model": model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 10, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
    ];
    for word in WORDS {
        events.push(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}));
    }
    events.push(json!({"type": "content_block_stop", "index": 0}));
    events.push(json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},
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
