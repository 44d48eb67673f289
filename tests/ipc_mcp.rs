//! Promise: an agent asks the host by tools over MCP, at the gateway's own host. Who
//! asks is known by the listener, the table decides, refusals can be read, and what
//! a person grants is reachable for that group alone.

mod harness;
mod mcp;
mod world;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use harness::{Jar, finish, skip};
use mcp::{CLIENT, done, of, python, refused, text, texts};
use serde_json::{Value, json};
use world::{TOKEN, World, text_of};
#[test]
fn the_server_introduces_itself_and_lists_its_tools() {
    let Some(world) = World::new() else { return };
    let script = "
asked = {'protocolVersion': '2025-06-18', 'capabilities': {}, 'clientInfo': {'name': 'test', 'version': '1'}}
tell(answer=rpc('initialize', asked))
tell(answer=post({'jsonrpc': '2.0', 'method': 'notifications/initialized'}))
tell(answer=rpc('tools/list'))
tell(answer=rpc('tools/call', {'name': 'make_main'}))";
    let answers = python(&world, &[], script);
    let result = &answers[0]["answer"]["result"];
    assert_eq!((&result["serverInfo"]["name"], &result["protocolVersion"]), (&json!("belljar"), &json!("2025-06-18")));
    assert!(result["capabilities"]["tools"].is_object() && result["instructions"].is_string(), "{result}");
    assert_eq!(answers[1]["answer"][0], 202);
    let tools = answers[2]["answer"]["result"]["tools"].as_array().cloned().expect("a list");
    let names: Vec<&str> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
    let all = "send_message schedule_task list_tasks get_task pause_task resume_task cancel_task update_task list_groups \
        register_group request_access";
    assert_eq!(names.join(" "), all);
    for tool in &tools {
        assert!(tool["description"].as_str().is_some_and(|text| text.len() > 20), "{tool}");
        assert_eq!(tool["inputSchema"]["type"], "object", "{tool}");
    }
    assert!(answers[3]["answer"]["error"]["message"].as_str().is_some_and(|text| text.contains("make_main")));
    let record = world.record();
    let lines: Vec<&Value> = record.iter().filter(|line| line["host"] == "belljar.internal").collect();
    assert_eq!(lines.len(), 4, "{record:?}");
    assert!(lines.iter().all(|line| line["path"] == "/mcp" && line["action"] == "allow" && line["method"] == "POST"));
}

/// Every tool once, for tasks and chats of whoever calls, and of another.
const EVERY_TOOL: &str = "
own, other = sys.argv[1:] if len(sys.argv) > 2 else ('', '')
order = {'prompt': 'p', 'schedule_type': 'interval', 'schedule_value': 60000}
tell(name='send own', answer=call('send_message', {'text': 'hello'}))
tell(name='send other', answer=call('send_message', {'text': 'hello', 'chat': 'local:' + other}))
tell(name='schedule own', answer=call('schedule_task', {**order, 'task_id': own + '-made'}))
tell(name='schedule other', answer=call('schedule_task', {**order, 'target': 'local:' + other}))
tell(name='list', answer=call('list_tasks'))
for whose, task in (('own', own + '-made'), ('other', other + '-task'), ('none', 'nothing')):
    tell(name='get ' + whose, answer=call('get_task', {'task_id': task}))
    for tool in ('pause_task', 'pause', 'resume_task', 'resume', 'update_task', 'update', 'cancel_task', 'cancel'):
        again = 'cancel' == tool and whose == 'own'
        if not again:
            tell(name=tool + ' ' + whose, answer=call(tool, {'task_id': task, 'prompt': 'changed'}))
tell(name='groups', answer=call('list_groups'))
tell(name='register', answer=call('register_group', {'jid': 'new@chat', 'name': 'New', 'folder': 'from-' + own}))
";

fn every_tool(world: &World, own: &str, other: &str) -> Vec<Value> {
    let script = format!("{CLIENT}\n{EVERY_TOOL}");
    let group = format!("--group={own}");
    let out = world.run(&[&group], &["/usr/bin/python3", "-c", &script, own, other]).success();
    out.out().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// A task of a group that is there before.
fn give_task(world: &World, group: &str) {
    let script = format!(
        "done = call('schedule_task', {{'prompt': 'secret plan of {group}', 'schedule_type': 'once', \
         'schedule_value': '2036-01-01T00:00:00', 'task_id': '{group}-task'}}); tell(answer=done)"
    );
    done(&python(world, &[&format!("--group={group}")], &script)[0]["answer"]);
}

#[test]
fn the_main_group_may_do_everything() {
    let Some(world) = World::new() else { return };
    world.groups(&["sales"]);
    give_task(&world, "sales");
    let answers = every_tool(&world, "main", "sales");
    for one in &answers {
        let name = one["name"].as_str().unwrap_or_default();
        match name.ends_with("none") || name == "cancel other" {
            true => refused(&one["answer"], "has no task"),
            false => done(&one["answer"]),
        }
    }
    let listed = of(&answers, "list").to_string();
    assert!(listed.contains("main-made") && listed.contains("sales-task"), "{listed}");
    assert!(text(of(&answers, "send own")).contains("belljar serve"), "nobody serves, and that is said");
    assert_eq!(of(&answers, "send own")["structuredContent"]["host_serves"], false);
    assert_eq!(texts(&world.jar, "SELECT chat FROM outgoing ORDER BY seq"), ["local:main", "local:sales"]);
    assert!(world.jar.group("from-main").is_dir());
}

#[test]
fn another_group_may_do_what_is_its_own_and_learns_nothing_of_others() {
    let Some(world) = World::new() else { return };
    world.groups(&["sales", "support"]);
    give_task(&world, "support");
    let answers = every_tool(&world, "sales", "support");
    let refusals = [
        ("send other", "is not group sales's own"),
        ("schedule other", "is not group sales's own"),
        ("groups", "only the main group"),
        ("register", "only the main group"),
    ];
    for one in &answers {
        let (name, answer) = (one["name"].as_str().unwrap_or_default(), &one["answer"]);
        match refusals.iter().find(|(refusal, _)| *refusal == name) {
            Some((_, words)) => {
                refused(answer, words);
                assert!(text(answer).contains("hint: "), "{answer}");
            }
            None if name.ends_with(" other") || name.ends_with(" none") => refused(answer, "has no task"),
            None => done(answer),
        }
    }
    // In the same words as of one that does not exist.
    for tool in ["get", "pause_task", "resume_task", "update_task", "cancel_task"] {
        let words = |whose: &str| text(of(&answers, &format!("{tool} {whose}"))).replace("support-task", "nothing");
        assert_eq!(words("other"), words("none"), "{tool}");
    }
    let said = serde_json::to_string(&answers).expect("JSON");
    assert!(!said.contains("secret plan"), "{said}");
    assert_eq!(texts(&world.jar, "SELECT prompt || ':' || status FROM task"), ["secret plan of support:active"]);
    assert_eq!(texts(&world.jar, "SELECT DISTINCT way FROM decision"), ["mcp"]);
    let wrong = "SELECT operation FROM decision WHERE grp = 'sales' AND NOT allowed AND target = 'support-task'";
    assert!(texts(&world.jar, wrong).len() >= 9, "refusals are recorded");
}

#[test]
fn nothing_in_a_call_says_who_asks() {
    let Some(world) = World::new() else { return };
    world.groups(&["sales"]);
    give_task(&world, "main");
    let script = "
who = {'groupFolder': 'main', 'group': 'main', 'isMain': True, 'is_main': True, 'identity': 'main', 'type': 'list_groups'}
for headers in ({}, {'Mcp_Session_Id': 'main', 'X_Group': 'main', 'Authorization': 'Bearer main', 'Cookie': 'group=main'}):
    tell(name='get', answer=call('get_task', {**who, 'task_id': 'main-task'}, **headers))
    tell(name='groups', answer=call('list_groups', who, **headers))
    tell(name='send', answer=call('send_message', {**who, 'text': 'x', 'chat': 'local:main'}, **headers))
    tell(name='own', answer=call('send_message', {**who, 'text': 'x'}, **headers))
tell(name='meta', answer=rpc('tools/call', {'name': 'list_groups', '_meta': {'group': 'main'}})['result'])
tell(name='url', answer=json.loads(post({'jsonrpc': '2.0', 'id': 1, 'method': 'tools/call', 'params': {'name': 'list_groups'}},
    URL + '?group=main')[1])['result'])";
    for one in python(&world, &["--group=sales"], script) {
        match one["name"].as_str() {
            Some("get") => refused(&one["answer"], "has no task"),
            Some("send") => refused(&one["answer"], "not group sales's own"),
            Some("own") => assert_eq!(one["answer"]["structuredContent"]["chat"], "local:sales"),
            _ => refused(&one["answer"], "only the main group"),
        }
    }
    // The same session of two groups is two.
    assert_eq!(texts(&world.jar, "SELECT DISTINCT chat FROM outgoing"), ["local:sales"]);
}

#[test]
fn what_is_not_understood_is_refused_in_words_and_a_secret_is_masked() {
    let Some(world) = World::new() else { return };
    world.secret("key", &["--host", "a.test", "--bearer"], TOKEN);
    let script = format!(
        "
tell(answer=call('send_message'))
tell(answer=call('send_message', {{'text': ['x']}}))
tell(answer=call('send_message', {{'text': 'x', 'chat': 'a', 'chatJid': 'b'}}))
tell(answer=call('schedule_task', {{'prompt': 'p', 'schedule_type': 'cron', 'schedule_value': 'whenever'}}))
tell(answer=call('register_group', {{'jid': 'x', 'name': 'X', 'folder': 'x', 'container_config': {{'mounts': []}}}}))
tell(answer=call('register_group', {{'jid': 'x', 'name': 'X', 'folder': 'main'}}))
tell(answer=call('request_access', {{'reason': 'x'}}))
tell(answer=call('request_access', {{'host': 'https://a.test/', 'reason': 'x'}}))
tell(answer=call('request_access', {{'host': 'belljar.internal', 'reason': 'x'}}))
tell(answer=call('send_message', {{'text': 'x' * 70000}}))
tell(answer=call('send_message', {{'text': 'it is {TOKEN}'}}))"
    );
    let answers = python(&world, &[], &script);
    let (masked, refusals) = answers.split_last().expect("answers");
    for one in refusals {
        assert!(one["answer"]["isError"] == true && text(&one["answer"]).contains("hint: "), "{one}");
    }
    done(&masked["answer"]);
    let kept = texts(&world.jar, "SELECT text FROM outgoing");
    assert!(kept.len() == 1 && kept[0].starts_with("it is ") && !kept[0].contains(TOKEN), "{kept:?}");
}

#[test]
fn it_is_there_by_every_way_and_nowhere_else() {
    let Some(world) = World::new() else { return };
    // What would carry anything anywhere, if anybody asked it.
    world.policy("default = \"deny\"\n[[tcp]]\nhost = \"*\"\nport = 80\n[[tcp]]\nhost = \"*\"\nport = 443\n");
    let script = "
ping = {'jsonrpc': '2.0', 'id': 1, 'method': 'ping'}
def raw(head, body=b'', connect=None, to=('belljar.internal', 80)):
    stream = socket.create_connection(('127.0.0.1', 3128) if connect else to, 20)
    if connect:
        stream.sendall(b'CONNECT %s HTTP/1.1\\r\\nHost: %s\\r\\n\\r\\n' % (connect, connect))
        got = b''
        while b'\\r\\n\\r\\n' not in got: got += stream.recv(1)
    body = body or json.dumps(ping).encode()
    more = b'Connection: close\\r\\nContent-Type: application/json\\r\\nAccept: application/json, text/event-stream\\r\\n'
    stream.sendall(head + more + b'Content-Length: %d\\r\\n\\r\\n' % len(body) + body)
    got = b''
    while True:
        piece = stream.recv(65536)
        if not piece: break
        got += piece
    return [int(got.split(b' ')[1]), got.decode('utf-8', 'replace')]
MCP, OWN = b'POST /mcp HTTP/1.1\\r\\n', b'Host: belljar.internal\\r\\n'
good = {
    'by the proxy': lambda: post(ping),
    'with the port': lambda: post(ping, 'http://belljar.internal:80/mcp'),
    'directly': lambda: raw(MCP + OWN),
    'by CONNECT': lambda: raw(MCP + OWN, connect=b'belljar.internal:80'),
    'with a query': lambda: post(ping, URL + '?x=1'),
}
for name, way in good.items():
    tell(name=name, good=True, answer=way())
bad = {
    'another path': lambda: post(ping, 'http://belljar.internal/'),
    'below it': lambda: post(ping, URL + '/x'),
    'another port': lambda: post(ping, 'http://belljar.internal:8080/mcp'),
    'by CONNECT to another port': lambda: raw(MCP + b'Host: belljar.internal:81\\r\\n', connect=b'belljar.internal:81'),
    'a name below it': lambda: post(ping, 'http://x.belljar.internal/mcp'),
    'another host': lambda: post(ping, 'http://a.test/mcp'),
    'another Host header': lambda: raw(MCP + b'Host: a.test\\r\\n'),
    'two Host headers': lambda: raw(MCP + OWN + b'Host: a.test\\r\\n'),
    'its Host header for another host': lambda: raw(MCP + OWN, connect=b'a.test:8080'),
    'absolute for another': lambda: raw(b'POST http://a.test/mcp HTTP/1.1\\r\\n' + OWN),
    'TRACE': lambda: raw(b'TRACE /mcp HTTP/1.1\\r\\n' + OWN),
    'GET': lambda: post(None, method='GET'),
    'DELETE': lambda: post(None, method='DELETE'),
    'from a page': lambda: post(ping, Origin='http://a.test'),
    'from a page of its own': lambda: post(ping, Origin='http://belljar.internal'),
    'no JSON': lambda: post(b'{'),
    'too long': lambda: post(b'{\"x\": \"' + b'x' * 1100000 + b'\"}'),
}
for name, way in bad.items():
    tell(name=name, good=False, answer=way())
try:
    import ssl
    status = post(ping, 'https://belljar.internal/mcp')
except Exception as error:
    status = [0, str(error)]
tell(name='https', good=False, answer=status)";
    for one in python(&world, &[], script) {
        let status = one["answer"][0].as_u64().expect("a status");
        match one["good"] == true {
            true => assert_eq!(status, 200, "{one}"),
            false => assert!((400..500).contains(&status), "{one}"),
        }
    }
    assert!(world.requests().is_empty() && world.packets("tcp").is_empty(), "nobody was dialled");
    let record = world.record();
    let not_found = record.iter().filter(|line| line["host"] == "belljar.internal" && line["status"] == 404).count();
    assert!(not_found >= 4, "{record:?}");
}

#[test]
fn a_listener_that_opens_no_tls_does_not_dial_it_either() {
    let Some(world) = World::new() else { return };
    let script = "
import ssl
tell(answer=post({'jsonrpc': '2.0', 'id': 1, 'method': 'ping'}))
tell(answer=post({'jsonrpc': '2.0', 'id': 1, 'method': 'ping'}, 'https://belljar.internal/mcp'))";
    let answers = python(&world, &[], script);
    assert_eq!((&answers[0]["answer"][0], &answers[1]["answer"][0]), (&json!(200), &json!(404)), "{answers:?}");
    assert!(!world.everything().contains("belljar.internal"), "{}", world.everything());
}

/// The prefix below which npm installed Claude Code.
fn claude() -> Option<PathBuf> {
    let prefix = std::env::var_os("BELLJAR_CLAUDE").filter(|prefix| !prefix.is_empty()).map(PathBuf::from);
    let found = prefix.map(|prefix| prefix.join("bin")).filter(|bin| bin.join("claude").exists());
    if found.is_none() {
        skip("claude below BELLJAR_CLAUDE, the prefix in which npm installed it");
    }
    found
}

#[test]
fn claude_code_finds_the_tools_unasked_and_uses_them() {
    let Some(bin) = claude() else { return };
    let Some(world) = World::new() else { return };
    world.groups(&["sales"]);
    world.secret("claude", &["--preset", "anthropic", "--group", "sales"], TOKEN);
    let words = ["claude", "-p", "Use belljar's tools."];
    let mut command = world.run_command(&["--group=sales", "-e", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1"], &words);
    let mut path = OsString::from(bin);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    command.env("PATH", &path);
    if let Some(home) = std::env::var_os("HOME") {
        command.env("HOME", home);
    }
    let out = finish(command, b"").success();
    let said = format!("{} {}\n{:?}", out.out(), out.err(), world.record());
    assert!(out.out().contains("the message is on its way") && out.out().contains("is scheduled"), "{said}");
    assert_eq!(texts(&world.jar, "SELECT chat || ' ' || text FROM outgoing"), ["local:sales from the model"], "{said}");
    assert_eq!(
        texts(&world.jar, "SELECT grp || ' ' || prompt || ' ' || value FROM task"),
        ["sales look again 3600000"]
    );
}

#[test]
fn what_an_agent_planted_in_its_session_stops_no_run_and_nothing_outside_is_written() {
    let jar = Jar::new();
    let session = jar.path("belljar/data/sessions/main/.claude");
    let run = || jar.sh("cat /home/node/.claude/.claude.json 2>&1; true").success();
    assert!(run().out().contains("http://belljar.internal/mcp"));
    let file = session.join(".claude.json");
    // What else is there stays.
    fs::write(&file, r#"{"mcpServers": {"mine": {"command": "x"}}, "numStartups": 3}"#).expect("write");
    run();
    let kept: Value = serde_json::from_str(&text_of(&file)).expect("JSON");
    assert_eq!(kept["numStartups"], 3);
    assert_eq!(kept["mcpServers"]["mine"]["command"], "x");
    assert_eq!(kept["mcpServers"]["belljar"]["type"], "http");
    jar.write("belljar/config/config.toml", "[log]\nto = \"stderr\"\n");
    let outside = jar.write("outside.json", "{}");
    let plants: [(&str, &dyn Fn()); 5] = [
        ("a directory", &|| fs::create_dir(&file).expect("make a directory")),
        ("a link to a file of the host's", &|| symlink(&outside, &file).expect("make a link")),
        ("a hard link", &|| fs::hard_link(&outside, &file).expect("make a link")),
        ("no JSON", &|| fs::write(&file, "{\"mcpServers\": ").expect("write")),
        ("another form", &|| fs::write(&file, "{\"mcpServers\": [1]}").expect("write")),
    ];
    for (what, plant) in plants {
        fs::remove_file(&file).or_else(|_| fs::remove_dir(&file)).expect("remove");
        let _ = fs::remove_file(session.join("settings.json"));
        plant();
        let out = run();
        assert!(out.err().contains("will not find belljar's tools"), "{what}: {}", out.err());
        assert_eq!(text_of(&outside), "{}", "{what}");
        // The one does not go with the other.
        assert!(text_of(&session.join("settings.json")).contains("mcp__belljar"), "{what}");
    }
}

#[test]
fn without_a_gateway_there_is_neither_configuration_nor_listener() {
    let jar = Jar::new();
    let script = "ls -A /home/node/.claude; curl -sS --max-time 5 http://belljar.internal/mcp 2>&1; \
        curl -sS --max-time 5 --resolve belljar.internal:80:127.0.0.1 http://belljar.internal/mcp 2>&1; true";
    let out = jar.run(&["--egress", "none"], &["sh", "-c", script]).success().out();
    assert!(!out.contains(".json") && out.contains("curl: "), "{out}");
    assert!(harness::names_in(&jar.path("belljar/data/sessions/main/.claude")).is_empty());
}

#[test]
fn with_a_network_of_its_own_a_run_has_the_tools_by_the_loopback() {
    if harness::system_program("pasta").is_none() {
        skip("pasta");
        return;
    }
    let jar = Jar::new();
    let script = "for way in '-x http://127.0.0.1:3128' '--noproxy *'; do curl -sS --max-time 20 $way -o /dev/null -w '%{http_code} ' \
        -H 'content-type: application/json' -H 'accept: application/json, text/event-stream' \
        -d '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}' http://belljar.internal/mcp; done";
    let script = format!("set -f; {script}");
    let out = jar.run(&["--egress", "open"], &["sh", "-c", &script]);
    // Where pasta can make no network, the run is refused (tests/network.rs).
    if out.code == 125 && out.err().contains("gave the run no network") {
        return;
    }
    assert_eq!(out.out(), "200 200 ", "{}", out.err());
}
