//! Promise: the IRC channel passes on what people and agents say, once, as text and
//! nothing else, and comes back after whatever happened to the server or to itself.

mod harness;
mod irc;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use harness::{Live, SOON, eventually};
use irc::{Channel, Person, Server, Settings};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The server, and the channel program in #ops; none without ngircd.
fn both() -> Option<(Server, Channel)> {
    let server = Server::start(Settings::default())?;
    let channel = Channel::new().start(&server, &["--join", "#Ops"]);
    channel.live().wait_for("\"chat\":\"#ops\"");
    Some((server, channel))
}

#[test]
fn people_and_the_host_process_talk_both_ways() {
    let Some((server, mut channel)) = both() else { return };
    assert_eq!(channel.lines()[0], json!({"type": "ready", "remembers": true}));
    let mut al = Person::join(&server, "Al", "#ops");
    al.say("PRIVMSG #OPS :hello \u{3}04,01re\u{2}d\u{f} :x");
    al.say("NOTICE #ops :a notice");
    al.say("PRIVMSG jar :\u{1}VERSION\u{1}");
    al.say("PRIVMSG #ops :\u{1}ACTION waves\u{1}");
    al.say_bytes(b"PRIVMSG jar :psst \xff\xfe \x1b[31m\"\x7f\r\n");
    channel.live().wait_for("psst");
    let messages = channel.messages();
    let told: Vec<_> = messages.iter().map(|message| (&message["chat"], &message["text"])).collect();
    assert_eq!(
        told,
        [
            (&json!("#ops"), &json!("hello red :x")),
            (&json!("#ops"), &json!("* Al waves")),
            (&json!("al"), &json!("psst \u{fffd}\u{fffd} [31m\"")),
        ]
    );
    for message in &messages {
        assert_eq!((&message["sender"], &message["sender_name"]), (&json!("al"), &json!("Al")));
        assert!(message["address"].as_str().is_some_and(|address| address.contains('@')), "{message}");
        assert!(message["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{message}");
    }
    channel.send("1", "#ops", "for\nall");
    channel.send("2", "al", "for you");
    channel.send("3", "nobody", "for whom?");
    channel.wait_for_answer("3");
    assert_eq!((channel.answer("1"), channel.answer("2")), (json!("sent"), json!("sent")));
    let refused = channel.lines().into_iter().find(|line| line["id"] == "3").expect("an answer");
    assert_eq!((&refused["type"], &refused["retry"]), (&json!("failed"), &json!(false)));
    al.wait_for("PRIVMSG Al :for you");
    assert_eq!(al.texts("#ops"), ["for", "all"]);
    channel.tell(&json!({"type": "refresh"}));
    channel.tell(&json!({"type": "dance"}));
    eventually("the chat is told again", SOON, || {
        channel.lines().iter().filter(|line| line["type"] == "chat").count() == 2
    });
    channel.end().success();
}

#[test]
fn no_reply_is_more_than_text_in_its_chat() {
    let Some((server, mut channel)) = both() else { return };
    let mut al = Person::join(&server, "al", "#ops");
    let mut eve = Person::join(&server, "eve", "#evil");
    for (id, chat, text) in [
        ("1", "#ops", "hi\r\nQUIT :x"),
        ("2", "#ops", "\nJOIN #evil"),
        ("3", "#ops", "\rJOIN #evil\0\r\rJOIN #evil"),
        ("4", "#ops,#evil", "two"),
        ("5", "#ops :x\r\nJOIN #evil\r\nPRIVMSG #ops", "chat"),
        ("6", "al\nJOIN #evil", "chat"),
        ("7", "#evil", "not joined"),
        ("8\r\nJOIN #evil", "#ops", "last\u{1}"),
    ] {
        channel.send(id, chat, text);
    }
    for id in ["1", "2", "3", "8\r\nJOIN #evil"] {
        channel.wait_for_answer(id);
        assert_eq!(channel.answer(id), "sent", "{id:?}");
    }
    for id in ["4", "5", "6", "7"] {
        assert_eq!(channel.answer(id), "failed", "{id:?}");
    }
    al.wait_for(":last\r\n");
    let texts: Vec<_> = al.texts("#ops");
    assert_eq!(texts, ["hi", "QUIT :x", "JOIN #evil", "JOIN #evilJOIN #evil", "last"]);
    eve.say("PING done");
    eve.wait_for("done");
    assert!(!eve.heard().contains("jar"), "{}", eve.heard());
    al.say("NAMES #ops");
    al.wait_for("366");
    assert!(al.heard().contains("jar"), "it is there: {}", al.heard());
}

#[test]
fn long_texts_are_split_and_nothing_of_them_is_lost() {
    let Some((server, mut channel)) = both() else { return };
    let mut al = Person::join(&server, "al", "#ops");
    let text: String = (0..700).map(|number| format!("ä{number}€")).collect();
    channel.send("1", "#ops", &text);
    channel.send("2", "#ops", "end");
    channel.wait_for_answer("2");
    al.wait_for(":end\r\n");
    let texts = al.texts("#ops");
    assert_eq!(texts[..texts.len() - 1].concat(), text);
    assert!(texts.iter().all(|line| line.len() <= 400), "{texts:?}");
}

#[test]
fn a_server_that_was_away_is_spoken_to_again() {
    let Some((mut server, mut channel)) = both() else { return };
    server.stop();
    eventually("it is noticed", SOON, || channel.live().so_far_err().contains("no connection"));
    channel.send("1", "al", "held");
    channel.send("2", "#ops", "for the channel");
    server.start_again();
    let mut al = Person::join(&server, "al", "#ops");
    channel.wait_for_answer("1");
    channel.wait_for_answer("2");
    assert_eq!(channel.answer("2"), "sent");
    al.say("PRIVMSG #ops :welcome back");
    channel.live().wait_for("welcome back");
    assert!(channel.live_mut().is_running());
}

#[test]
fn what_the_host_process_has_not_stored_is_told_again() {
    let Some((server, channel)) = both() else { return };
    let mut al = Person::join(&server, "al", "#ops");
    al.say("PRIVMSG #ops :first");
    al.say("PRIVMSG #ops :second");
    channel.live().wait_for("second");
    let messages = channel.messages();
    let mut channel = channel.kill().start(&server, &["--join", "#ops"]);
    channel.live().wait_for("second");
    assert_eq!(channel.messages(), messages);
    channel.tell(&json!({"type": "stored", "id": messages[0]["id"]}));
    // What is read in order is done in order.
    channel.send("x", "#nowhere", "x");
    channel.wait_for_answer("x");
    let channel = channel.kill().start(&server, &["--join", "#ops"]);
    channel.live().wait_for("#ops\",\"name\"");
    assert_eq!(channel.messages(), messages[1..]);
}

#[test]
fn a_message_is_sent_once_also_by_the_next_process() {
    let Some((server, mut channel)) = both() else { return };
    let mut al = Person::join(&server, "al", "#ops");
    channel.send("1", "#ops", "only once");
    channel.send("1", "#ops", "only once");
    channel.wait_for_answer("1");
    channel.send("1", "#ops", "only once");
    let mut channel = channel.kill().start(&server, &["--join", "#ops"]);
    channel.tell(&json!({"type": "send", "id": "1", "chat": "#ops", "text": "only once", "again": true}));
    channel.wait_for_answer("1");
    assert_eq!(channel.answer("1"), "sent");
    channel.send("2", "#ops", "another");
    channel.wait_for_answer("2");
    al.wait_for("another");
    assert_eq!(al.texts("#ops"), ["only once", "another"]);
}

#[test]
fn an_older_process_of_the_channel_ends_first() {
    let Some((server, first)) = both() else { return };
    let mut second = first.command(&server, &["--join", "#ops"]);
    second.stdin(std::process::Stdio::piped());
    let second = Live::start(second);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(second.so_far(), "");
    let (outcome, _place) = first.end_in_place();
    outcome.success();
    second.wait_for("ready");
}

#[test]
fn at_the_end_of_stdin_and_by_sigterm_what_was_read_is_sent() {
    let Some((server, mut channel)) = both() else { return };
    let mut al = Person::join(&server, "al", "#ops");
    for number in 1..=7 {
        channel.send(&number.to_string(), "#ops", &format!("number {number}"));
    }
    let (outcome, place) = channel.end_in_place();
    let outcome = outcome.success();
    assert_eq!(outcome.out().matches("\"sent\"").count(), 7, "{}", outcome.out());
    al.wait_for("QUIT :");
    assert_eq!(al.texts("#ops").len(), 7);
    let mut channel = place.start(&server, &["--join", "#ops"]);
    channel.live().wait_for("#ops\",\"name\"");
    channel.send("8", "#ops", "number 8");
    // It has read it when it has answered the next.
    channel.send("x", "#nowhere", "x");
    channel.wait_for_answer("x");
    channel.live().signal(Signal::SIGTERM);
    let outcome = channel.end().success();
    assert!(outcome.out().contains("{\"type\":\"sent\",\"id\":\"8\"}"), "{}", outcome.out());
}

#[test]
fn a_nickname_in_use_gets_an_underscore() {
    let Some(server) = Server::start(Settings::default()) else { return };
    let _jar = Person::join(&server, "jar", "#ops");
    let channel = Channel::new().start(&server, &["--join", "#ops"]);
    channel.live().wait_for("#ops\",\"name\"");
    let mut al = Person::join(&server, "al", "#ops");
    al.say("PRIVMSG jar_ :you?");
    channel.live().wait_for("you?");
}

#[test]
fn a_password_is_in_a_private_file_and_never_in_the_clear() {
    let place = Channel::new();
    let write = |name: &str, text: &str, mode: u32| {
        let path = place.write(name, text);
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set its mode");
        path.display().to_string()
    };
    let (good, wrong) = (write("good", "let me in\n", 0o600), write("wrong", "guess", 0o400));
    let (open, empty) = (write("open", "let me in", 0o640), write("empty", "\n", 0o600));
    let two = write("two", "a\nQUIT", 0o600);
    let link = place.path("link").display().to_string();
    symlink(&good, &link).expect("make a link");
    let refused = |file: &str, words: &[&str]| {
        let options = ["--server", "127.0.0.1:1", "--no-tls", "--password-file", file];
        place.call(&options).exits(125).says(words);
    };
    refused(&open, &["mode is 0640", "hint: chmod 600"]);
    refused(&empty, &["it is empty"]);
    refused(&two, &["one line"]);
    refused(&link, &["symlink"]);
    refused(&place.path("none").display().to_string(), &["read the password file"]);
    place
        .call(&["--server", "irc.example.org", "--no-tls", "--password-file", &good])
        .exits(125)
        .says(&["irc.example.org without TLS", "everybody on the way could read it"]);
    place.call(&["--server", "irc.example.org", "--sasl-user", "x"]).exits(2).says(&["--password-file"]);
    place.call(&["--server", "irc.example.org", "--join", "#a,#b"]).exits(2).says(&["--join #a,#b"]);
    let Some(server) = Server::start(Settings { password: Some("let me in"), ..Settings::default() }) else { return };
    let channel = place.start(&server, &["--password-file", &wrong]);
    eventually("it is refused", SOON, || channel.live().so_far_err().contains("no connection"));
    let channel = channel.kill().start(&server, &["--password-file", &good, "--join", "#ops"]);
    channel.live().wait_for("#ops\",\"name\"");
}

#[test]
fn a_server_of_an_unknown_authority_is_refused() {
    let Some(server) = Server::start(Settings { tls: true, ..Settings::default() }) else { return };
    // The platform's authorities, whoever runs the tests.
    let place = Channel::new();
    let channel = place.start_tls(&server, "localhost", &["--join", "#ops"]);
    eventually("it is refused", 2 * SOON, || channel.live().so_far_err().contains("no connection"));
    let why = channel.live().so_far_err();
    assert!(why.contains("TLS") && why.contains("certificate") && !why.contains("connected to"), "{why}");
    let authority = server.authority().display().to_string();
    let mut channel = channel.kill().start_tls(&server, "localhost", &["--join", "#ops", "--ca", &authority]);
    channel.live().wait_for("#ops\",\"name\"");
    channel.send("1", "#ops", "in private");
    channel.wait_for_answer("1");
    // Known, but somebody else.
    let channel = channel.kill().start_tls(&server, "127.0.0.1", &["--ca", &authority]);
    eventually("it is refused", 2 * SOON, || channel.live().so_far_err().contains("no connection"));
    assert!(!channel.live().so_far_err().contains("connected to"));
}

/// A server that is a few lines of the test.
fn pretend(listener: &TcpListener, lines: &[(&str, &[u8])]) -> Vec<String> {
    let (mut stream, _) = listener.accept().expect("it connects");
    stream.set_read_timeout(Some(harness::slowly(Duration::from_secs(20)))).expect("set a timeout");
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut heard = Vec::new();
    for (wanted, answer) in lines {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("it says something");
            assert!(!line.is_empty(), "it has gone, and `{wanted}` is not in {heard:?}");
            heard.push(line.trim_end().to_owned());
            if heard.last().is_some_and(|line| line.starts_with(wanted)) {
                break;
            }
        }
        // It may go away before it has read all of that.
        let _ = stream.write_all(answer);
    }
    heard
}

#[test]
fn an_account_is_logged_in_to_before_anything_else() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let place = Channel::new();
    let file = place.write("password", "p w\n");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("set its mode");
    let server = listener.local_addr().expect("an address").to_string();
    let file = file.display().to_string();
    let options = ["--sasl-user", "jar", "--password-file", &file, "--join", "#ops"];
    let channel = place.start_at(&server, &[&["--no-tls"], &options[..]].concat());
    let heard = pretend(
        &listener,
        &[
            ("USER", b":s CAP * ACK :sasl\r\n"),
            ("AUTHENTICATE PLAIN", b"AUTHENTICATE +\r\n"),
            ("AUTHENTICATE AGphcgBwIHc=", b":s 900 * * jar :ok\r\n:s 903 * :ok\r\n"),
            ("CAP END", b":s 001 jar :hi\r\n"),
            ("JOIN #ops", b":jar!~j@h JOIN #ops\r\n"),
        ],
    );
    assert!(heard.iter().all(|line| !line.starts_with("PASS")), "{heard:?}");
    channel.live().wait_for("#ops\",\"name\"");
}

#[test]
fn a_message_that_was_begun_before_a_crash_is_not_said_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let server = listener.local_addr().expect("an address").to_string();
    let mut channel = Channel::new().start_at(&server, &["--no-tls", "--join", "#ops"]);
    channel.send("1", "#ops", "once");
    let welcome: [(&str, &[u8]); 2] = [("USER", b":s 001 jar :hi\r\n"), ("JOIN", b":jar!j@h JOIN #ops\r\n")];
    let mut until_said = welcome.to_vec();
    until_said.push(("PRIVMSG #ops once", b""));
    pretend(&listener, &until_said);
    let mut channel = channel.kill().start_at(&server, &["--no-tls", "--join", "#ops"]);
    channel.send("1", "#ops", "once");
    channel.wait_for_answer("1");
    assert_eq!(channel.answer("1"), "sent");
    channel.send("2", "#ops", "twice");
    let mut until_said = welcome.to_vec();
    until_said.push(("PRIVMSG #ops twice", b""));
    let heard = pretend(&listener, &until_said);
    assert!(!heard.iter().any(|line| line.contains("once")), "{heard:?}");
}

#[test]
fn a_hostile_server_does_not_end_the_program() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let server = listener.local_addr().expect("an address").to_string();
    let mut channel = Channel::new().start_at(&server, &["--no-tls", "--join", "#ops"]);
    let long = [b":s NOTICE jar :".as_slice(), &[b'x'; 9000], b"\r\n"].concat();
    pretend(&listener, &[("USER", &long)]);
    eventually("it ends the connection", SOON, || channel.live().so_far_err().contains("too long"));
    let odd =
        b"\xff\xfe\r\n@\r\n:\r\n :\r\nBATCH\r\nMODE #a +b\r\n:a!b@c\r\n005\r\n:s 433\r\n:s 001\r\n:s 001 jar :hi\r\n";
    let mut welcome = odd.to_vec();
    welcome.extend(b":jar!j@h JOIN #ops\r\n:\x1b]0;x\x07!\xff@h PRIVMSG #ops :from\0 an odd one\r\n");
    pretend(&listener, &[("USER", &welcome)]);
    channel.live().wait_for("from an odd one");
    for line in channel.live().so_far().lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    assert!(channel.live_mut().is_running());
    assert!(!channel.live().so_far_err().contains("panicked"));
}

#[test]
fn without_a_place_to_remember_it_does_not_begin() {
    let mut command = Channel::new().command_at("127.0.0.1:1", &["--no-tls"]);
    command.env("BELLJAR_CHANNEL_STATE", Path::new("/nonexistent"));
    harness::finish(command, b"").exits(125).says(&["BELLJAR_CHANNEL_STATE", "hint: mkdir"]);
}
