//! Promise: a channel is a program that may fail. It is started again, nothing that it
//! told is lost or stored twice, nothing that it was told is sent twice, and it speaks
//! for its own chats only.

mod harness;

use harness::host::{Channel, Host};
use harness::{SOON, eventually};
use serde_json::{Value, json};

const ECHO: &str =
    "[group.main]\nproject = \"$JAR/project\"\ncommand = [\"cat\"]\n[group.sales]\ncommand = [\"cat\"]\n";

/// A host with channels `(name, options)`; `NAME:#sales` of the first is the group's.
fn start(channels: &[(&str, &str)]) -> (Host, Vec<Channel>) {
    let mut host = Host::prepare(&[], &["sales"]);
    let sections: String = channels.iter().map(|(name, options)| Channel::section(name, options)).collect();
    host.configure(&(sections + ECHO));
    let made = channels.iter().map(|(name, _)| Channel::new(&host.jar, name)).collect();
    bind(&host, "sales", &format!("{}:#sales", channels[0].0));
    host.again();
    (host, made)
}

fn bind(host: &Host, group: &str, chat: &str) {
    host.jar.call(&["group", "set", group, "--chat", chat, "--no-trigger"]).success();
}

/// Each `send` of this id that the program was asked for: whether it was one more time.
fn asked(channel: &Channel, id: &Value) -> Vec<bool> {
    let all = channel.log("asked");
    all.iter().filter(|one| one["id"] == *id).map(|one| one["again"] == true).collect()
}

#[test]
fn what_it_tells_is_answered_in_its_chat_and_stored_once() {
    let (mut host, channels) = start(&[("irc", "remembers")]);
    let irc = &channels[0];
    irc.line(&json!({"type": "chat", "chat": "#lobby", "name": "The lobby"}).to_string());
    for _ in 0..2 {
        irc.hears("m1", "#sales", ("ann", "hello"));
    }
    let sent = irc.wait_sent(1);
    assert_eq!(sent[0]["chat"], "#sales", "by the name that it knows");
    assert!(sent[0]["text"].as_str().is_some_and(|text| text.contains("sender=\"ann\"") && text.contains(">hello<")));
    eventually("both are answered for", 4 * SOON, || irc.log("stored").len() == 2);
    irc.hears("m2", "#sales", ("ann", "again"));
    irc.wait_sent(2);
    host.settle();
    eventually("it is sent", SOON, || host.count("SELECT count(*) FROM outgoing WHERE state = 'sent'") == 2);
    assert_eq!(host.count("SELECT count(*) FROM message"), 2);
    // Main is shown what chats there are; others are not.
    let available = |group: &str| {
        let path = host.jar.path(&format!("belljar/data/ipc/{group}/available_groups.json"));
        std::fs::read_to_string(path).unwrap_or_default()
    };
    host.jar.call(&["group", "set", "main", "--chat", "irc:#ops"]).success();
    eventually("main sees the lobby", 2 * SOON, || available("main").contains("The lobby"));
    assert!(!available("sales").contains("lobby"), "{}", available("sales"));
    // Its program ends with the host.
    let program = irc.log("begun")[0].as_u64().expect("a pid");
    host.end();
    eventually("it ends", SOON, || !std::path::Path::new(&format!("/proc/{program}")).exists());
}

#[test]
fn one_that_remembers_is_asked_again_and_sends_once() {
    let (host, channels) = start(&[("irc", "remembers")]);
    let irc = &channels[0];
    for (number, way) in ["die-after", "die-before"].into_iter().enumerate() {
        irc.next(way);
        irc.hears(way, "#sales", ("ann", way));
        let sent = irc.wait_sent(number + 1);
        eventually("it has died", SOON, || irc.has_done(way));
        let id = sent[number]["id"].clone();
        eventually("it is known to be sent", 4 * SOON, || {
            host.count("SELECT count(*) FROM outgoing WHERE state = 'sent'") == number as i64 + 1
        });
        assert_eq!(asked(irc, &id), [false, true], "{way}");
    }
    assert_eq!(irc.sent().len(), 2);
    assert_eq!(irc.log("begun").len(), 3, "it was started again");
    assert!(host.log().contains("it has ended"), "{}", host.log());
}

#[test]
fn one_that_does_not_remember_is_not_asked_again_and_a_person_is_told() {
    let (mut host, channels) = start(&[("irc", "")]);
    let irc = &channels[0];
    irc.next("die-after");
    irc.hears("m1", "#sales", ("ann", "first"));
    let first = irc.wait_sent(1)[0]["id"].clone();
    let failed = "SELECT count(*) FROM outgoing WHERE state = 'failed' AND error LIKE '%was not told%'";
    eventually("it is marked", 4 * SOON, || host.count(failed) == 1);
    assert!(host.log().contains("may have been sent, or not"), "{}", host.log());
    irc.hears("m2", "#sales", ("ann", "second"));
    irc.wait_sent(2);
    // The same when the host process is killed meanwhile.
    irc.next("hold");
    irc.hears("m3", "#sales", ("ann", "third"));
    eventually("it is asked", 4 * SOON, || irc.log("asked").len() == 3);
    host.kill();
    std::fs::remove_file(host.jar.path("channel-irc/hold")).expect("let it go on");
    host.again();
    eventually("it is marked", 4 * SOON, || host.count(failed) == 2);
    irc.hears("m4", "#sales", ("ann", "fourth"));
    irc.wait_sent(4);
    let ids: Vec<Value> = irc.log("asked").iter().map(|one| one["id"].clone()).collect();
    assert_eq!(ids.len(), 4, "each once: {ids:?}");
    assert_eq!(asked(irc, &first), [false]);
    assert_eq!(irc.sent().len(), 4, "what it read before its end it has sent");
}

#[test]
fn what_could_not_be_sent_is_tried_again_or_never_as_it_says() {
    let (host, channels) = start(&[("irc", "remembers")]);
    let irc = &channels[0];
    irc.next("fail-never");
    irc.hears("m1", "#sales", ("ann", "never"));
    eventually("it has failed", 4 * SOON, || {
        host.count("SELECT count(*) FROM outgoing WHERE state = 'failed' AND error = 'no such chat'") == 1
    });
    assert!(host.log().contains("cannot be sent: no such chat"), "{}", host.log());
    irc.next("fail-later");
    irc.hears("m2", "#sales", ("ann", "later"));
    let sent = irc.wait_sent(1);
    assert!(sent[0]["text"].as_str().is_some_and(|text| text.contains("later")));
    assert_eq!(asked(irc, &sent[0]["id"]).len(), 2);
}

#[test]
fn it_cannot_speak_for_the_chats_of_another_nor_say_what_became_of_what_it_has_not() {
    let (host, channels) = start(&[("irc", "remembers"), ("evil", "remembers")]);
    let (irc, evil) = (&channels[0], &channels[1]);
    bind(&host, "main", "evil:main");
    for (number, chat) in ["irc:#sales", "#sales", "local:sales", "local:main", "../irc:#sales", ""].iter().enumerate()
    {
        evil.hears(&format!("e{number}"), chat, ("boss", "forged"));
    }
    evil.wait_stored("e5");
    assert_eq!(host.count("SELECT count(*) FROM message"), 0, "all of them are nobody's");
    // Ids are each channel's own: none takes the id of another's message away.
    evil.hears("m1", "main", ("boss", "mine"));
    irc.hears("m1", "#sales", ("ann", "hers"));
    assert!(irc.wait_sent(1)[0]["text"].as_str().is_some_and(|text| text.contains(">hers<")));
    evil.wait_sent(1);
    // irc has one in hand; evil says that it was sent.
    irc.next("hold");
    irc.hears("m2", "#sales", ("ann", "second"));
    eventually("it is asked", 4 * SOON, || irc.log("asked").len() == 2);
    let id = irc.log("asked")[1]["id"].clone();
    evil.line(&json!({"type": "sent", "id": id}).to_string());
    evil.line(&json!({"type": "failed", "id": id, "error": "x", "retry": true}).to_string());
    evil.hears("e9", "main", ("boss", "after that"));
    evil.wait_sent(2);
    let number = id.as_str().expect("an id").to_owned();
    assert_eq!(host.count(&format!("SELECT count(*) FROM outgoing WHERE seq = {number} AND state = 'handed'")), 1);
    std::fs::remove_file(host.jar.path("channel-irc/hold")).expect("let it go on");
    irc.wait_sent(2);
    host.settle();
    assert_eq!((irc.sent().len(), evil.sent().len()), (2, 2));
}

#[test]
fn what_is_not_understood_is_passed_over() {
    let (host, channels) = start(&[("irc", "remembers")]);
    let irc = &channels[0];
    for line in [
        "",
        "x",
        "[]",
        "{}",
        "null",
        r#"{"type":"newer","x":1}"#,
        r#"{"type":"message"}"#,
        r#"{"type":"sent"}"#,
        r#"{"type":"sent","id":"18446744073709551616"}"#,
        r#"{"type":"sent","id":"-1"}"#,
        r#"{"type":"ready"}"#,
        r##"{"type":"message","id":1,"chat":"#sales","sender":"a","text":"x"}"##,
    ] {
        irc.line(line);
    }
    irc.line(&format!(
        "{{\"type\":\"message\",\"id\":\"big\",\"chat\":\"#sales\",\"sender\":\"a\",\"text\":\"{}\"}}",
        "x".repeat(2 << 20)
    ));
    irc.line(r##"{"type":"message","id":"m1","chat":"#sales","sender":"ann","text":"understood","more":{"x":[1]},"time":"yesterday"}"##);
    let sent = irc.wait_sent(1);
    assert!(sent[0]["text"].as_str().is_some_and(|text| text.contains(">understood<")));
    assert_eq!(irc.log("begun").len(), 1, "it goes on: {}", host.log());
    assert_eq!(host.count("SELECT count(*) FROM message"), 1);
}

#[test]
fn one_that_cannot_be_started_or_does_not_speak_keeps_nobody_waiting() {
    let mut host = Host::prepare(&[], &["sales"]);
    let irc = Channel::new(&host.jar, "irc");
    host.configure(&format!(
        "{}[channel.gone]\ncommand = [\"/nowhere/program\"]\n[channel.empty]\ncommand = []\n[channel.mute]\ncommand = [\"true\"]\n\
         [channel.odd]\ncommand = [\"sh\", \"-c\", \"echo hello; exec sleep 1000\"]\n{ECHO}",
        Channel::section("irc", "remembers")
    ));
    bind(&host, "sales", "irc:#sales");
    host.again();
    irc.hears("m1", "#sales", ("ann", "hello"));
    irc.wait_sent(1);
    for (name, why) in [
        ("gone", "/nowhere/program"),
        ("empty", "has no command"),
        ("mute", "it has ended"),
        ("odd", "first line is not"),
    ] {
        let told =
            |log: &str| log.lines().any(|line| line.contains(&format!("the channel {name}")) && line.contains(why));
        eventually(&format!("{name}: {why}: {}", host.log()), 2 * SOON, || told(&host.log()));
    }
    host.end();
    // A program that was not understood is not left behind.
    let mark = format!("BELLJAR_CHANNEL_STATE={}", host.jar.text("belljar/data/channels/odd"));
    let is_its = |pid: &str| {
        std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| String::from_utf8_lossy(&all).contains(&mark))
    };
    eventually("it has ended", SOON, || !harness::names_in("/proc".as_ref()).iter().any(|pid| is_its(pid)));
    for bad in ["local", "LOCAL", "a:b", "a b", "\u{e9}"] {
        host.configure(&format!("[channel.\"{bad}\"]\ncommand = [\"true\"]\n"));
        host.jar.call(&["serve"]).exits(125).says(&["no name of a channel", "hint: "]);
    }
}

#[test]
fn it_is_given_its_own_state_and_waits_for_who_came_before() {
    let mut host = Host::prepare(&[], &[]);
    // One that takes its time to end.
    let program = "echo \"$BELLJAR_CHANNEL $BELLJAR_CHANNEL_STATE $PWD\" >>\"$0/begun\"\n\
                   [ -d \"$0/live\" ] && echo two >>\"$0/both\"\nmkdir \"$0/live\"\necho '{\"type\":\"ready\"}'\ncat\nsleep 1\nrmdir \"$0/live\"\n";
    std::fs::create_dir(host.jar.path("net")).expect("make a directory");
    host.configure(&format!("[channel.slow]\ncommand = [\"sh\", \"-c\", '''{program}''', \"$JAR/net\"]\n"));
    let begun = |host: &Host| std::fs::read_to_string(host.jar.path("net/begun")).unwrap_or_default().lines().count();
    for times in 1..4 {
        host.again();
        eventually("it begins", 4 * SOON, || begun(&host) == times);
        eventually("it is ready", SOON, || host.log().contains("the channel slow is ready"));
        host.kill();
    }
    assert!(!host.jar.path("net/both").exists(), "never two at once");
    let said = std::fs::read_to_string(host.jar.path("net/begun")).expect("what it was given");
    let state = host.jar.text("belljar/data/channels/slow");
    assert_eq!(said.lines().next(), Some(format!("slow {state} /").as_str()));
    eventually("the last one has ended too", 2 * SOON, || !host.jar.path("net/live").exists());
}
