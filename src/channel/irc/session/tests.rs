//! A server's lines, hostile ones too, and what comes of them.

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::channel::irc::options::Login;

fn begin(login: Login) -> (Session, Instant) {
    let identity = Identity { nick: "jar".to_owned(), channels: vec!["#Ops".to_owned(), "#b".to_owned()], login };
    let now = Instant::now();
    (Session::new(Rc::new(identity), now), now)
}

fn registered() -> (Session, Instant) {
    let (mut session, now) = begin(Login::None);
    for line in [
        ":s 001 jar :Welcome",
        ":s 005 jar CASEMAPPING=ascii :are supported",
        ":jar!~j@host JOIN :#ops",
        ":s 473 jar #b :Cannot join channel (+i)",
    ] {
        session.hear(line, now).expect("it goes on");
    }
    session.take_commands();
    (session, now)
}

fn said(session: &mut Session) -> Vec<String> {
    session.take_commands().into_iter().map(|command| Message::from(command).to_string()).collect()
}

#[test]
fn a_nickname_in_use_gets_longer_and_the_channels_are_joined() {
    let (mut session, now) = begin(Login::Server(Zeroizing::new("pass word".to_owned())));
    assert_eq!(said(&mut session), ["PASS :pass word\r\n", "NICK jar\r\n", "USER jar 0 * belljar\r\n"]);
    assert_eq!(session.hear(":s 433 * jar :Nickname is already in use", now), Ok(None));
    assert_eq!(said(&mut session), ["NICK jar_\r\n"]);
    assert_eq!(session.hear(":s 001 jar_ :Welcome", now), Ok(Some(Heard::Registered("jar_".to_owned()))));
    assert_eq!(said(&mut session), ["JOIN #Ops\r\n", "JOIN #b\r\n"]);
    assert_eq!(session.hear(":jar_!~j@host JOIN #ops", now), Ok(Some(Heard::Joined("#Ops".to_owned()))));
    assert_eq!((session.way_to("#OPS"), session.way_to("#b")), (Way::Open, Way::NotYet));
    session.tick(now + PING_EVERY).expect("it goes on");
    assert_eq!(said(&mut session), ["PING alive\r\n", "NICK jar\r\n"]);
    assert!(session.tick(now + DEAD_AFTER).is_err());
}

#[test]
fn what_people_say_is_told_and_what_programs_say_is_not() {
    let (mut session, now) = registered();
    let mut hear = |line: &str| match session.hear(line, now) {
        Ok(Some(Heard::Said(said))) => Some((said.chat, said.nick, said.nick_name, said.address, said.text)),
        Ok(None) => None,
        other => panic!("{line}: {other:?}"),
    };
    let told = |chat: &str, text: &str| {
        Some((chat.to_owned(), "al".to_owned(), "Al".to_owned(), Some("a@h".to_owned()), text.to_owned()))
    };
    assert_eq!(hear(":Al!a@h PRIVMSG #OPS :hi :there"), told("#ops", "hi :there"));
    assert_eq!(hear("@time=x;y :Al!a@h PRIVMSG #ops hi"), told("#ops", "hi"));
    assert_eq!(hear(":Al!a@h PRIVMSG JAR :psst"), told("al", "psst"));
    assert_eq!(hear(":Al!a@h PRIVMSG #ops :\u{1}ACTION waves\u{1}"), told("#ops", "* Al waves"));
    for line in [
        ":Al!a@h PRIVMSG #ops :\u{1}VERSION\u{1}",
        ":Al!a@h NOTICE #ops :hi",
        ":Al!a@h PRIVMSG @#ops :for some",
        ":Al!a@h PRIVMSG #b :we are not there",
        ":Al!a@h PRIVMSG #other :hi",
        ":Al!a@h PRIVMSG other :hi",
        ":jar!~j@host PRIVMSG #ops :an echo",
        ":irc.s PRIVMSG #ops :from a server",
        "PRIVMSG #ops :from nobody",
        ":Al!a@h PRIVMSG #ops",
        ":Al!a@h PRIVMSG",
        ":",
        "@",
        " :",
        "\u{fffd}",
    ] {
        assert_eq!(hear(line), None, "{line}");
    }
}

#[test]
fn a_chat_has_a_way_or_a_reason() {
    let (mut session, now) = registered();
    assert_eq!((session.way_to("#ops"), session.way_to("al")), (Way::Open, Way::Open));
    assert!(matches!(session.way_to("#b"), Way::Closed(why) if why.contains("Cannot join channel (+i) (473)")));
    for chat in ["#other", "#ops,#b", "al,#ops", "$*", "jar", "al\r\nQUIT", ""] {
        assert!(matches!(session.way_to(chat), Way::None(_)), "{chat:?}");
    }
    session.tick(now + JOIN_AGAIN).expect("it goes on");
    assert_eq!((said(&mut session), session.way_to("#b")), (vec!["JOIN #b\r\n".to_owned()], Way::NotYet));
    let kicked = session.hear(":op!o@h KICK #ops jar :go", now).expect("it goes on");
    assert_eq!(kicked, Some(Heard::NotIn { channel: "#Ops".to_owned(), why: "op threw us out: go".to_owned() }));
    assert_eq!(session.joined().count(), 0);
    let refused = session.hear(":s 401 jar al :No such nick", now).expect("it goes on");
    assert!(matches!(refused, Some(Heard::NotTaken { target, .. }) if target == "al"));
}

#[test]
fn the_server_is_answered_and_asked() {
    let (mut session, now) = registered();
    session.hear("PING :a b", now).expect("it goes on");
    session.mark(7);
    assert_eq!(said(&mut session), ["PONG :a b\r\n", "PING 7\r\n"]);
    assert_eq!(session.hear(":s PONG s :7", now), Ok(Some(Heard::Arrived(7))));
    assert_eq!(session.hear(":s PONG s :alive", now), Ok(None));
    assert!(session.is_fresh(now));
    assert!(!session.is_fresh(now + FRESH) && !session.is_fresh(now + FRESH));
    assert_eq!(said(&mut session), ["PING alive\r\n"], "it is asked once");
    session.hear(":s PONG s :alive", now + FRESH).expect("it goes on");
    assert!(session.is_fresh(now + FRESH));
    assert!(session.hear("ERROR :Closing link", now).is_err());
}

#[test]
fn nobody_goes_on_without_the_account() {
    let account = || Login::Account { user: "u".to_owned(), password: Zeroizing::new("p".to_owned()) };
    let (mut session, now) = begin(account());
    assert_eq!(said(&mut session)[0], "CAP REQ sasl\r\n");
    session.hear(":s CAP * ACK :sasl", now).expect("it goes on");
    session.hear("AUTHENTICATE +", now).expect("it goes on");
    session.hear(":s 903 jar :ok", now).expect("it goes on");
    assert_eq!(said(&mut session), ["AUTHENTICATE PLAIN\r\n", "AUTHENTICATE AHUAcA==\r\n", "CAP END\r\n"]);
    assert!(session.hear(":s 001 jar :hi", now).is_ok());
    for line in [":s CAP * NAK :sasl", ":s 904 * :failed", ":s 001 jar :hi"] {
        let (mut session, now) = begin(account());
        assert!(session.hear(line, now).is_err(), "{line}");
    }
}

proptest! {
    #[test]
    fn no_line_is_too_odd(
        start in prop::sample::select(vec!["", ":a!b@c ", "@t=\\", "CAP ", "MODE ", ":jar ", "PRIVMSG ", "BATCH ", ":s 4"]),
        line in "[^\r\n]{0,80}",
    ) {
        let (mut session, now) = registered();
        let _ = session.hear(&format!("{start}{line}"), now);
        let _ = session.hear(&line, now);
        for command in said(&mut session) {
            prop_assert!(!command[..command.len() - 2].contains(['\r', '\n']));
        }
    }
}
