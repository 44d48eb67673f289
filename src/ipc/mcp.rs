//! The operations as tools of an MCP server over streamable HTTP (Model Context
//! Protocol). Who asks is known by the run whose listener a call came in by: there
//! are no sessions, and nothing in a call is read that could say otherwise.

use std::sync::Arc;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::access;
use super::perform::{Answer, Desk, Way};
use super::session::HOST;
use super::tools;
use super::{Identity, Operation};
use crate::config::{Config, Dirs};
use crate::error::{Error, Result};
use crate::host::is_served;
use crate::store::{State, Store};

/// Longest call, in bytes.
pub const LONGEST: usize = 1 << 20;
/// Calls of a run that may wait for a person at once: fewer than calls that are
/// served at once, so that the other tools have a place.
const WAITING: usize = 4;
/// For the agent's model, once, before it calls anything.
const INSTRUCTIONS: &str = "Tools of belljar, the sandbox that you run in: send messages to chats, \
    schedule tasks for later, and ask a person for access to a host. What a tool refuses it explains; \
    repeating the same call does not change the answer.";

/// What the tools of one run work with.
pub struct Setup {
    /// belljar's directories.
    pub dirs: Dirs,
    /// `config.toml`.
    pub config: Config,
    /// Where it is done.
    pub store: Arc<Store>,
    /// The group whose agent it is.
    pub group: String,
    /// The run.
    pub run: String,
    /// Masks the run's secrets in a text: none may come into the store.
    pub mask: Box<dyn Fn(&str) -> String + Send + Sync>,
}

/// Told what became of the approval that a call waits for; in the extensions of its
/// HTTP request.
#[derive(Clone)]
pub struct OnApproval(pub Arc<Tell>);

/// The approval's id, and what became of it.
pub type Tell = dyn Fn(&str, State) + Send + Sync;

/// What answers the HTTP requests.
pub type Service = StreamableHttpService<Tools, NeverSessionManager>;

/// The server of one run.
pub fn service(setup: Setup) -> Service {
    let tools = Tools(Arc::new(Bench {
        desk: Desk::new(&setup.dirs, &setup.config),
        identity: Identity::of(&setup.group),
        waiting: Arc::new(Semaphore::new(WAITING)),
        setup,
    }));
    let config = StreamableHttpServerConfig::default()
        // Each call stands for itself: nothing of one run's is kept that another
        // could name, and nothing grows.
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_allowed_hosts([HOST.to_owned(), format!("{HOST}:80")])
        // Programs send no Origin; a page that a browser in there shows does.
        .enforce_origin_validation()
        .with_max_request_body_bytes(LONGEST);
    StreamableHttpService::new(move || Ok(tools.clone()), Arc::default(), config)
}

/// What the tools of one run share.
pub(super) struct Bench {
    pub desk: Desk,
    pub identity: Identity,
    pub waiting: Arc<Semaphore>,
    pub setup: Setup,
}

/// The tools.
#[derive(Clone)]
pub struct Tools(Arc<Bench>);

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        let mut info = ServerConfig::new(ServerCapabilities::builder().enable_tools().build());
        info.server_info = Implementation::new("belljar", env!("CARGO_PKG_VERSION"));
        info.with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::all()))
    }

    async fn call_tool(
        &self,
        call: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(name) = tools::full_name(&call.name) else {
            return Err(ErrorData::invalid_params(format!("there is no tool `{}`", call.name), None));
        };
        let done = match operation(name, call.arguments.unwrap_or_default(), &self.0.setup.mask) {
            Ok(operation @ Operation::RequestAccess { .. }) => access::ask(&self.0, operation, context).await,
            Ok(operation) => self.0.perform(operation).await,
            Err(error) => Err(error),
        };
        Ok(done.map_or_else(|error| refused(&error), told).into())
    }
}

impl Bench {
    /// Does it, and says where it can have no effect yet.
    async fn perform(self: &Arc<Self>, operation: Operation) -> Result<Answer> {
        let needs_host = match &operation {
            Operation::SendMessage { .. } => Some("it is sent"),
            Operation::ScheduleTask(_)
            | Operation::PauseTask { .. }
            | Operation::ResumeTask { .. }
            | Operation::CancelTask { .. }
            | Operation::UpdateTask(_) => Some("tasks are carried out"),
            _ => None,
        };
        let mut answer = self.at_desk(operation).await?;
        if let Some(what) = needs_host {
            let serves = is_served(&self.setup.dirs);
            if let Value::Object(value) = &mut answer.value {
                value.insert("host_serves".to_owned(), serves.into());
            }
            if !serves {
                answer.text += &format!("; no host process serves at the moment: {what} when `belljar serve` runs");
            }
        }
        Ok(answer)
    }

    /// The store blocks: not on the thread that serves connections.
    pub(super) async fn at_desk(self: &Arc<Self>, operation: Operation) -> Result<Answer> {
        self.blocking(move |bench| {
            let way = Way::Mcp { run: bench.setup.run.clone() };
            bench.desk.perform(&bench.setup.store, &bench.identity, &way, &operation)
        })
        .await
    }

    /// Work that may take milliseconds.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let bench = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&bench)).await;
        done.unwrap_or_else(|error| Err(Error::failed("do what the tool is for").because(error)))
    }
}

/// A call as an operation. The tool's name decides which one, whatever an argument
/// called `type` says.
fn operation(name: &str, mut arguments: Map<String, Value>, mask: impl Fn(&str) -> String) -> Result<Operation> {
    arguments.values_mut().for_each(|value| masked(value, &mask));
    arguments.insert("type".to_owned(), name.into());
    serde_json::from_value(Value::Object(arguments)).map_err(|error| {
        Error::refused(format!("the arguments of {name} are not understood"))
            .because(error)
            .hint("tools/list says which arguments it takes")
    })
}

fn masked(value: &mut Value, mask: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = mask(text),
        Value::Array(values) => values.iter_mut().for_each(|value| masked(value, mask)),
        Value::Object(values) => values.values_mut().for_each(|value| masked(value, mask)),
        _ => {}
    }
}

/// The words, and the JSON both ways: some clients show their model only one of them.
fn told(answer: Answer) -> CallToolResult {
    let mut result = CallToolResult::success(vec![ContentBlock::text(answer.text.clone())]);
    if let Value::Object(mut value) = answer.value {
        result.content.push(ContentBlock::text(Value::Object(value.clone()).to_string()));
        value.insert("said".to_owned(), answer.text.into());
        result.structured_content = Some(Value::Object(value));
    }
    result
}

/// A refusal is a result: an error of the protocol is not shown to the model.
fn refused(error: &Error) -> CallToolResult {
    let hint = error.hint.as_deref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    CallToolResult::error(vec![ContentBlock::text(format!("{}{hint}", error.with_causes()))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, arguments: Value) -> Result<Operation> {
        let Value::Object(arguments) = arguments else { panic!("no object") };
        operation(name, arguments, |text: &str| text.replace("hunter2", "***"))
    }

    #[test]
    fn the_tools_name_decides_and_secrets_are_masked() {
        let parsed = parse("send_message", serde_json::json!({"type": "list_groups", "text": "it is hunter2"}));
        let Ok(Operation::SendMessage { chat: None, text }) = parsed else { panic!("{parsed:?}") };
        assert_eq!(text, "it is ***");
    }

    #[test]
    fn what_is_not_understood_is_explained() {
        let error = parse("send_message", serde_json::json!({})).expect_err("there is no text");
        assert!(error.with_causes().contains("text") && error.hint.is_some(), "{error}");
    }

    #[test]
    fn every_tool_is_an_operation_of_its_name() {
        let all = serde_json::json!({
            "text": "x", "prompt": "x", "schedule_type": "once", "schedule_value": "2027-01-01T00:00:00",
            "task_id": "x", "jid": "x", "name": "x", "folder": "x", "host": "x",
        });
        for tool in tools::all() {
            let parsed = parse(&tool.name, all.clone()).unwrap_or_else(|error| panic!("{}: {error}", tool.name));
            assert_eq!(parsed.name(), tool.name);
        }
    }
}
