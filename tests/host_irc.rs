//! Promise: people on a real IRC server talk with the agents of their groups, through
//! `belljar serve` and its own channel; also when the host process is killed.

mod harness;
mod irc;

use harness::host::Host;
use harness::{SOON, eventually};
use irc::{Person, Server, Settings};

fn world() -> Option<(Server, Host)> {
    let server = Server::start(Settings::default())?;
    let mut host = Host::prepare(&[], &["ops", "other"]);
    host.configure(&format!(
        "[log]\nto = \"stderr\"\n[host]\nidle_close = \"1s\"\nretry = \"100ms\"\n\
         [channel.net]\ncommand = [\"belljar\", \"channel\", \"irc\", \"--server\", \"127.0.0.1:{}\", \"--no-tls\", \
         \"--nick\", \"jar\", \"--join\", \"#ops\", \"--join\", \"#other\"]\n\
         [group.ops]\ncommand = [\"sh\", \"-c\", \"sed -n 's/.*>\\\\(.*\\\\)<.message>/ops heard \\\\1/p'\"]\n\
         [group.other]\ncommand = [\"sh\", \"-c\", \"echo other\"]\n",
        server.port()
    ));
    host.jar.call(&["group", "set", "ops", "--chat", "net:#ops", "--trigger", "@jar"]).success();
    host.jar.call(&["group", "set", "other", "--chat", "net:#other", "--no-trigger"]).success();
    host.again();
    eventually("the channel is ready", 2 * SOON, || host.log().contains("channel net is ready"));
    Some((server, host))
}

/// Waits until the agents' nick is in the channel.
fn meet(person: &mut Person, channel: &str) {
    let mut times = 0;
    eventually("jar is there", 4 * SOON, || {
        let before = person.heard().len();
        times += 1;
        // The answer to this one, and to none before.
        let end = format!("{channel}-{before}-{times}");
        person.say(&format!("NAMES {channel}"));
        person.say(&format!("PING {end}"));
        person.wait_for(&end);
        let heard = person.heard();
        heard[before..].lines().any(|line| line.contains(" 353 ") && line.contains("jar"))
    });
}

#[test]
fn a_message_is_answered_where_it_was_said() {
    let Some((server, mut host)) = world() else { return };
    let mut ann = Person::join(&server, "ann", "#ops");
    let mut bob = Person::join(&server, "bob", "#other");
    meet(&mut ann, "#ops");
    meet(&mut bob, "#other");
    ann.say("PRIVMSG #ops :nobody is meant");
    ann.say("PRIVMSG #ops :@jar one");
    ann.wait_for("ops heard @jar one");
    bob.say("PRIVMSG #other :anything");
    bob.wait_for(":other\r\n");
    // What came before came along; nothing of it was said elsewhere.
    assert_eq!(ann.texts("#ops"), ["ops heard nobody is meant", "ops heard @jar one"]);
    assert_eq!(bob.texts("#other"), ["other"]);
    assert!(!bob.heard().contains("ops heard"), "{}", bob.heard());
    host.end();
}

#[test]
fn a_host_process_that_is_killed_answers_once() {
    let Some((server, mut host)) = world() else { return };
    let mut ann = Person::join(&server, "ann", "#ops");
    for number in 0..6 {
        meet(&mut ann, "#ops");
        ann.say(&format!("PRIVMSG #ops :@jar number {number}."));
        eventually("it is heard", 4 * SOON, || host.count("SELECT count(*) FROM message") == number + 1);
        host.kill();
        host.again();
        // What is said while nobody is in the channel is not heard: IRC keeps nothing.
        eventually("the next one is connected", 4 * SOON, || host.log().contains("connected to"));
    }
    meet(&mut ann, "#ops");
    let answered = |text: &str| (0..6).filter(|number| text.contains(&format!("number {number}."))).count();
    eventually("all are answered", 10 * SOON, || {
        ann.listen();
        answered(&ann.texts("#ops").join(" ")) == 6
    });
    ann.say("PRIVMSG #ops :@jar last");
    ann.wait_for("heard @jar last");
    let said = ann.texts("#ops").join(" ");
    for number in 0..6 {
        assert_eq!(said.matches(&format!("number {number}.")).count(), 1, "{said}");
    }
    host.end();
}
