//! Promise: what an agent asks for by files in its group's directory is done or refused
//! by one table. The directory says who asks, nothing else does; what is refused changes
//! nothing, is recorded, and the agent reads why.

mod harness;
mod ipc;

use std::fs;

use harness::{SOON, eventually, names_in};
use ipc::Host;
use serde_json::{Value, json};

use Verdict::{Allowed, Refused};

/// What the table says, and words of the reason.
#[derive(Clone, Copy)]
enum Verdict {
    Allowed,
    Refused(&'static str),
}

const LATER: &str = "2099-01-01T00:00:00Z";

/// main, and two others; each has a task `of-NAME` that is due in many years.
fn world() -> Host {
    let host = Host::prepared(&["sales", "other"], "");
    for group in ["main", "sales", "other"] {
        host.jar.call(&["task", "add", "-g", group, "--id", &format!("of-{group}"), "--at", LATER, "work"]).success();
    }
    let mut host = host;
    host.again();
    host
}

fn kind_of(operation: &Value) -> &'static str {
    if ["message", "send_message"].map(Value::from).contains(&operation["type"]) { "messages" } else { "tasks" }
}

/// One cell: a group's agent asks for something, and it is done or refused. What the
/// person finds recorded.
fn cell(host: &Host, group: &str, operation: &Value, verdict: Verdict) -> Value {
    host.take_refusals(group);
    let (before, count) = (host.state(), host.count_decisions(group));
    host.put(group, kind_of(operation), "asked.json", operation.to_string());
    eventually(&format!("{group}: {operation} is decided"), SOON, || host.count_decisions(group) > count);
    eventually("it is settled", SOON, || host.is_settled(group));
    assert_eq!(host.count_decisions(group), count + 1, "once");
    let decision = host.decision(group);
    let name = match operation["type"].as_str().expect("a type") {
        "message" => "send_message",
        name => name,
    };
    assert_eq!(
        (&decision["group"], &decision["way"], &decision["operation"]),
        (&json!(group), &json!("file"), &json!(name))
    );
    match verdict {
        Allowed => {
            assert_eq!(
                (&decision["allowed"], &decision["reason"]),
                (&json!(true), &json!("")),
                "{operation}: {decision}"
            );
            assert!(host.take_refusals(group).is_empty(), "{group}: {operation}");
        }
        Refused(words) => {
            let reason = decision["reason"].as_str().expect("a reason");
            assert_eq!(decision["allowed"], false, "{group}: {operation}");
            assert!(reason.contains(words), "{group}: {operation}: {reason}");
            let mut read = Vec::new();
            eventually("the agent reads why", SOON, || {
                read.extend(host.take_refusals(group));
                !read.is_empty()
            });
            let [refusal] = &read[..] else { panic!("{group}: {operation}: {read:?}") };
            assert_eq!((&refusal["type"], &refusal["refused"]["reason"]), (&json!("message"), &json!(reason)));
            assert_eq!(
                (&refusal["refused"]["file"], &refusal["refused"]["operation"]),
                (&json!("asked.json"), &json!(name))
            );
            let text = refusal["text"].as_str().expect("a text");
            assert!(text.contains(reason) && text.contains("hint: "), "{text}");
            assert_eq!(host.state(), before, "{group}: {operation}");
        }
    }
    decision
}

fn last_outgoing(host: &Host) -> String {
    host.rows("SELECT chat, grp, text FROM outgoing ORDER BY seq DESC LIMIT 1").concat()
}

fn task(host: &Host, id: &str) -> Value {
    let tasks = host.jar.call(&["task", "list", "--json"]).success().json();
    tasks.as_array().expect("tasks").iter().find(|task| task["id"] == id).cloned().unwrap_or_default()
}

#[test]
fn a_message_goes_to_the_own_chat_and_from_main_to_any() {
    let host = world();
    let to = |chat: Option<&str>| json!({"type": "message", "chatJid": chat, "text": "hello"});
    for (group, chat, goes_to) in [
        ("main", None, "irc:#main"),
        ("main", Some("irc:#main"), "irc:#main"),
        ("main", Some("local:main"), "local:main"),
        ("main", Some("irc:#sales"), "irc:#sales"),
        ("main", Some("local:sales"), "local:sales"),
        ("main", Some("irc:#nobodys"), "irc:#nobodys"),
        ("sales", None, "irc:#sales"),
        ("sales", Some("irc:#sales"), "irc:#sales"),
        ("sales", Some("local:sales"), "local:sales"),
    ] {
        let decision = cell(&host, group, &to(chat), Allowed);
        assert_eq!(decision["target"], goes_to);
        let sent = last_outgoing(&host);
        assert!(sent.contains(goes_to) && sent.contains(group) && sent.contains("hello"), "{sent}");
    }
    for chat in ["irc:#main", "irc:#other", "irc:#nobodys", "local:main", "local:other", "local:nobody", "local:SALES"]
    {
        let decision = cell(&host, "sales", &to(Some(chat)), Refused("is not group sales's own"));
        assert_eq!(decision["permission"], "send message to other chats");
        // In the same words, whether there is such a chat or not.
        let reason = decision["reason"].as_str().expect("a reason").replace(chat, "CHAT");
        assert_eq!(
            reason,
            "the chat `CHAT` is not group sales's own; because: `send message to other chats` is for the main group"
        );
    }
    for (text, words) in [("", "empty"), (" \n", "empty"), (&"x".repeat((64 << 10) + 1), "64 KiB")] {
        cell(&host, "sales", &json!({"type": "message", "text": text}), Refused(words));
    }
}

#[test]
fn a_task_is_scheduled_for_the_own_group_and_by_main_for_any() {
    let host = world();
    let order = |id: &str, target: Option<&str>| {
        json!({"type": "schedule_task", "taskId": id, "prompt": "work", "schedule_type": "once",
            "schedule_value": LATER, "targetJid": target, "context_mode": "isolated"})
    };
    for (group, target, id, owner, chat) in [
        ("main", None, "m1", "main", "irc:#main"),
        ("main", Some("irc:#sales"), "m2", "sales", "irc:#sales"),
        ("main", Some("local:other"), "m3", "other", "local:other"),
        ("sales", None, "s1", "sales", "irc:#sales"),
        ("sales", Some("irc:#sales"), "s2", "sales", "irc:#sales"),
        ("sales", Some("local:sales"), "s3", "sales", "local:sales"),
    ] {
        cell(&host, group, &order(id, target), Allowed);
        let made = task(&host, id);
        assert_eq!((&made["group"], &made["chat"]), (&json!(owner), &json!(chat)), "{made}");
        assert_eq!((&made["prompt"], &made["context_mode"]), (&json!("work"), &json!("isolated")), "{made}");
    }
    for chat in ["irc:#main", "irc:#other", "irc:#nobodys", "local:main", "local:nobody"] {
        let decision = cell(&host, "sales", &order("s4", Some(chat)), Refused("is not group sales's own"));
        let reason = decision["reason"].as_str().expect("a reason").replace(chat, "CHAT");
        assert_eq!(
            reason,
            "the chat `CHAT` is not group sales's own; because: `schedule task for others` is for the main group"
        );
    }
    cell(&host, "main", &order("m4", Some("irc:#nobodys")), Refused("no group has the chat"));
    cell(&host, "main", &order("m4", Some("local:nobody")), Refused("there is no group `nobody`"));
    for (field, value, words) in [
        ("schedule_type", json!("cron"), "cron"),
        ("schedule_value", json!("never"), "never"),
        ("prompt", json!(""), "empty"),
        ("taskId", json!("a/b"), "letters"),
        ("taskId", json!("s1"), "already"),
        ("script", json!("exit 1"), "takes no script"),
        ("timeZone", json!("Moon/Base"), "Moon/Base"),
    ] {
        let mut order = order("s5", None);
        order[field] = value;
        cell(&host, "sales", &order, Refused(words));
    }
}

#[test]
fn a_task_is_changed_by_its_group_and_by_main() {
    let host = world();
    let change = |what: &str, id: &str| json!({"type": what, "taskId": id, "prompt": "other work"});
    for what in ["pause_task", "resume_task", "update_task", "get_task", "cancel_task"] {
        let mut reasons = Vec::new();
        for id in ["of-main", "of-other", "of-nobody"] {
            let decision = cell(&host, "sales", &change(what, id), Refused("the group has no task"));
            reasons.push(decision["reason"].as_str().expect("a reason").replace(id, "ID"));
        }
        assert!(reasons.iter().all(|reason| *reason == reasons[0]), "others' tasks and none are the same: {reasons:?}");
        cell(&host, "main", &change(what, "of-nobody"), Refused("the group has no task"));
        for (group, id) in [("sales", "of-sales"), ("main", "of-main"), ("main", "of-other")] {
            cell(&host, group, &change(what, id), Allowed);
            let now = task(&host, id);
            match what {
                "pause_task" => assert_eq!(now["status"], "paused"),
                "resume_task" => assert_eq!(now["status"], "active"),
                "update_task" => assert_eq!(now["prompt"], "other work"),
                "cancel_task" => assert!(now.is_null(), "{now}"),
                _ => assert!(now.is_object()),
            }
        }
    }
}

#[test]
fn main_alone_lists_and_refreshes_groups() {
    let host = world();
    for what in ["list_groups", "refresh_groups"] {
        cell(&host, "main", &json!({"type": what}), Allowed);
        cell(&host, "sales", &json!({"type": what}), Refused("only the main group manages groups"));
    }
    for group in ["main", "sales"] {
        cell(&host, group, &json!({"type": "list_tasks"}), Allowed);
        let ask = json!({"type": "request_access", "host": "example.org"});
        cell(&host, group, &ask, Refused("request_access is a tool of MCP"));
    }
}

#[test]
fn main_gives_a_chat_a_group_and_nobody_else_does() {
    let host = world();
    host.jar.write("belljar/config/mount-allowlist.json", r#"{"allowedRoots": []}"#);
    let configured = || {
        ["config.toml", "mount-allowlist.json"]
            .map(|name| fs::read_to_string(host.jar.path("belljar/config").join(name)).expect("read it"))
    };
    let before = configured();
    let register =
        json!({"type": "register_group", "jid": "irc:#new", "name": "New", "folder": "new", "trigger": "@Jar"});
    let with = |field: &str, value: Value| {
        let mut changed = register.clone();
        changed[field] = value;
        changed
    };
    let manages = Refused("only the main group manages groups");
    cell(&host, "sales", &register, manages);
    cell(&host, "sales", &with("folder", json!("sales")), manages);
    cell(&host, "sales", &with("jid", json!("irc:#main")), manages);
    let cannot_be_main = Refused("no agent can make a group main, or give main another chat");
    for folder in ["main", "MAIN", "Main"] {
        cell(&host, "main", &with("folder", json!(folder)), cannot_be_main);
    }
    for is_main in [json!(true), json!("true"), json!(1), json!({})] {
        cell(&host, "main", &with("isMain", is_main.clone()), cannot_be_main);
        cell(&host, "main", &with("is_main", is_main), cannot_be_main);
    }
    let mounts = json!({"additionalMounts": [{"hostPath": "/", "containerPath": "host", "readonly": false}]});
    for field in ["containerConfig", "container_config"] {
        for value in [mounts.clone(), json!({}), json!(false)] {
            cell(&host, "main", &with(field, value), Refused("cannot say what is mounted"));
        }
    }
    for jid in ["irc:#sales", "irc:#main"] {
        cell(&host, "main", &with("jid", json!(jid)), Refused("belongs to group"));
    }
    for jid in ["local:new", "local:main", "local:sales"] {
        cell(&host, "main", &with("jid", json!(jid)), Refused("cannot be bound"));
    }
    for (field, value, words) in [
        ("folder", "../x", "not a group name"),
        ("folder", "a/b", "not a group name"),
        ("folder", ".claimed", "not a group name"),
        ("folder", "", "not a group name"),
        ("folder", "global", "not a group name"),
        ("name", "", "the name has"),
        ("name", "a\nb", "the name has"),
        ("jid", "a\u{1}b", "the chat has"),
        ("trigger", " ", "the trigger has"),
    ] {
        cell(&host, "main", &with(field, json!(value)), Refused(words));
    }
    assert!(!host.data("groups/new").exists() && !host.data("ipc/new").exists(), "nothing is made when it is refused");

    cell(&host, "main", &register, Allowed);
    let shown = host.jar.call(&["group", "show", "new"]).success().out();
    assert!(shown.contains("untrusted") && shown.contains("irc:#new") && shown.contains("@Jar"), "{shown}");
    for directory in ["groups/new", "sessions/new/.claude", "ipc/new/messages", "ipc/new/tasks", "ipc/new/input"] {
        assert!(host.data(directory).is_dir(), "{directory}");
    }
    // It is served from now on, and is as little trusted as others.
    host.serves("new");
    cell(
        &host,
        "new",
        &json!({"type": "message", "chatJid": "irc:#main", "text": "x"}),
        Refused("is not group new's own"),
    );
    // A group that is there gets another chat.
    cell(&host, "main", &with("jid", json!("irc:#newer")), Allowed);
    cell(&host, "new", &json!({"type": "message", "chatJid": "irc:#newer", "text": "x"}), Allowed);
    cell(
        &host,
        "new",
        &json!({"type": "message", "chatJid": "irc:#new", "text": "x"}),
        Refused("is not group new's own"),
    );
    assert_eq!(configured(), before);
}

#[test]
fn fields_that_say_who_asks_change_nothing() {
    let host = world();
    let claims = [
        ("groupFolder", "main"),
        ("group", "main"),
        ("sourceGroup", "main"),
        ("createdBy", "main"),
        ("identity", "main"),
    ];
    let claiming = |mut operation: Value| {
        for (field, value) in claims {
            operation[field] = json!(value);
        }
        operation["isMain"] = json!(true);
        operation
    };
    cell(
        &host,
        "sales",
        &claiming(json!({"type": "message", "chatJid": "irc:#main", "text": "x"})),
        Refused("not group sales's own"),
    );
    cell(&host, "sales", &claiming(json!({"type": "pause_task", "taskId": "of-main"})), Refused("has no task"));
    cell(&host, "sales", &claiming(json!({"type": "refresh_groups"})), Refused("only the main group"));
    let register = json!({"type": "register_group", "jid": "irc:#new", "name": "New", "folder": "new"});
    cell(&host, "sales", &claiming(register), Refused("only the main group"));
    let order = json!({"type": "schedule_task", "taskId": "mine", "prompt": "work", "schedule_type": "once", "schedule_value": LATER});
    cell(&host, "sales", &claiming(order), Allowed);
    assert_eq!(task(&host, "mine")["group"], "sales");
    cell(&host, "sales", &claiming(json!({"type": "message", "text": "hello"})), Allowed);
    let sent = last_outgoing(&host);
    assert!(sent.contains("irc:#sales") && sent.contains("hello"), "{sent}");
}

#[test]
fn a_group_that_is_removed_and_added_again_is_served_anew() {
    let host = world();
    let snapshot = host.data("ipc/sales/current_tasks.json");
    eventually("its tasks are shown", SOON, || {
        fs::read_to_string(&snapshot).is_ok_and(|text| text.contains("of-sales"))
    });
    host.jar.call(&["group", "remove", "sales"]).success();
    let log = host.log().len();
    host.put("sales", "messages", "late.json", ipc::message("late words"));
    // A bell after the one of the removal was heard.
    host.serves("other");
    for directory in ["ipc/sales", "groups/sales", "sessions/sales"] {
        fs::remove_dir_all(host.data(directory)).expect("remove it");
    }
    host.jar.call(&["group", "add", "sales"]).success();
    host.jar.call(&["group", "set", "sales", "--chat", "irc:#sales"]).success();
    eventually("the new directories are open", SOON, || snapshot.exists());
    host.serves("sales");
    host.jar.call(&["task", "add", "-g", "sales", "--id", "new-task", "--at", LATER, "work"]).success();
    eventually("its tasks are shown", SOON, || {
        fs::read_to_string(&snapshot).is_ok_and(|text| text.contains("new-task"))
    });
    let text = fs::read_to_string(&snapshot).expect("read it");
    assert!(!text.contains("of-sales") && !host.has_said("sales", "late words"), "{text}");
    assert!(!host.log()[log..].contains("error"), "{}", host.log());
}

/// Asks for all of this, and prints what it reads of refusals.
const ASKS: &str = r##"
cd /workspace/ipc || exit 9
put() { printf '%s' "$3" >"$1/$2.tmp" && mv "$1/$2.tmp" "$1/$2.json"; }
put messages own '{"type":"message","text":"own words"}'
put messages foreign '{"type":"message","chatJid":"irc:#other","text":"foreign words"}'
put tasks own '{"type":"schedule_task","taskId":"inside-GROUP","prompt":"p","schedule_type":"interval","schedule_value":3600000}'
put tasks foreign '{"type":"pause_task","taskId":"of-other"}'
put tasks register '{"type":"register_group","jid":"irc:#of-GROUP","name":"n","folder":"of-GROUP"}'
times=0
until [ "$(cat input/refused-*.json 2>/dev/null | wc -l)" -ge COUNT ] || [ $times -gt 400 ]; do
    times=$((times + 1))
    sleep 0.1
done
sleep 0.3
ls messages tasks
cat input/refused-*.json
rm -f input/refused-*.json
true
"##;

#[test]
fn an_agent_asks_from_inside_a_run_and_reads_what_was_refused() {
    let script = |group: &str, count: &str| json!(ASKS.replace("GROUP", group).replace("COUNT", count));
    let config = format!("[group.sales]\ncommand = [\"sh\", \"-c\", {}]\n", script("sales", "3"));
    let mut host = Host::prepared(&["sales", "other"], &config);
    let main = fs::read_to_string(host.jar.path("belljar/config/config.toml")).expect("read it");
    let main = main.replacen("[\"cat\"]", &format!("[\"sh\", \"-c\", {}]", script("main", "0")), 1);
    host.jar.write("belljar/config/config.toml", &main);
    host.jar.call(&["task", "add", "-g", "other", "--id", "of-other", "--at", LATER, "work"]).success();
    host.again();
    let answer = host.jar.call(&["send", "-g", "sales", "--wait=60s", "go"]).success().out();
    for words in [
        "the chat `irc:#other` is not group sales's own",
        "the group has no task `of-other`",
        "only the main group manages groups",
    ] {
        assert!(answer.contains(words), "{words}: {answer}");
    }
    assert!(!answer.contains(".json\n"), "nothing lies there any more: {answer}");
    assert!(host.has_said("sales", "own words"));
    assert_eq!(task(&host, "inside-sales")["group"], "sales");
    assert_eq!((&task(&host, "of-other")["status"], host.count_decisions("sales")), (&json!("active"), 5));
    assert!(
        !host.has_said("other", "foreign words") && !names_in(&host.data("groups")).contains(&"of-sales".to_owned())
    );
    // The same from main's is done.
    let answer = host.jar.call(&["send", "--wait=60s", "go"]).success().out();
    assert!(!answer.contains("refused"), "{answer}");
    assert_eq!(host.rows("SELECT grp FROM outgoing WHERE chat = 'irc:#other' AND text = 'foreign words'").len(), 1);
    assert_eq!(task(&host, "of-other")["status"], "paused");
    assert_eq!(task(&host, "inside-main")["group"], "main");
    assert!(host.data("groups/of-main").is_dir());
}
