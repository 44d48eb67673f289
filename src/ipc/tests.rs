//! Whatever agents ask for, in whatever order and by whichever way: a group other than
//! main changes nothing of others', and nothing but a person at the host makes a group
//! main, gives main another chat, or touches the configuration.

use std::ffi::OsStr;
use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::claim::{Claims, Kind};
use super::{Desk, Identity, Operation, Place, Way};
use crate::config::{Config, Dirs, Groups, MAIN};
use crate::plan::Trust;
use crate::schedule::{Kind as ScheduleKind, Schedule};
use crate::store::{Binding, Heard, NewTask, Store, TaskContext, TaskEnd, Turn, Wakes, tasks};

const GROUPS: [&str; 3] = [MAIN, "a", "b"];
const LATER: &str = "2099-01-01T00:00:00Z";
const EARLIER: &str = "2020-01-01T00:00:00Z";
const SETTINGS: [(&str, &str); 2] =
    [("config.toml", "[host]\nassistant = \"jar\"\n"), ("mount-allowlist.json", "{\"allowedRoots\":[]}")];

/// An installation with three groups; each has a chat, a task, a message and a session.
struct World {
    home: TempDir,
    dirs: Dirs,
    store: Store,
    desk: Desk,
}

impl World {
    fn new() -> Self {
        // In memory, where it can be: each step waits for the disk.
        let home = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        let below = |name: &str| home.path().join(name);
        let dirs = Dirs { config: below("config"), data: below("data"), run: below("run") };
        fs::create_dir_all(&dirs.config).expect("make a directory");
        for (name, text) in SETTINGS {
            fs::write(dirs.config.join(name), text).expect("write a file");
        }
        let store = Store::open(&dirs).expect("open the store");
        for group in GROUPS {
            if group != MAIN {
                Groups::new(&dirs).add(group.parse().expect("a name")).expect("add a group");
            }
            let (name, chat) = (group.to_owned(), format!("irc:#{group}"));
            let bound = Binding { group: name.clone(), chat: chat.clone(), name: chat.clone(), trigger: None };
            store.bind(&bound).expect("bind");
            let schedule = Schedule::parse(ScheduleKind::Once, LATER, "UTC").expect("a schedule");
            let task = NewTask {
                id: Some(format!("t-{group}")),
                group: name.clone(),
                chat: chat.clone(),
                prompt: "work".to_owned(),
                script: None,
                schedule,
                context: TaskContext::Group,
            };
            store.write("add a task to", |transaction| tasks::add(transaction, &task)).expect("add a task");
            let heard = Heard {
                chat: chat.clone(),
                key: "1".to_owned(),
                group: name.clone(),
                sender: "s".to_owned(),
                sender_name: "S".to_owned(),
                text: "said".to_owned(),
                time: None,
                wakes: Wakes::Yes,
            };
            store.hear(&heard).expect("hear");
            let turn = Turn { answered: Vec::new(), reply: Some((chat, "before".to_owned())), session: Some(name) };
            store.settle(group, &turn).expect("settle");
        }
        let desk = Desk::new(&dirs, &Config::default());
        Self { home, dirs, store, desk }
    }

    /// A group's agent asks, by one of the two ways.
    fn ask(&self, group: &str, operation: &Value, by: By) {
        let kind = match by {
            By::Messages => Kind::Messages,
            By::Tasks => Kind::Tasks,
            By::Mcp => {
                let way = Way::Mcp { run: "run".to_owned() };
                if let Ok(operation) = serde_json::from_value::<Operation>(operation.clone()) {
                    // What comes of it is looked at in the store.
                    let _ = self.desk.perform(&self.store, &Identity::of(group), &way, &operation);
                }
                return;
            }
        };
        let found = Groups::new(&self.dirs).find(group).expect("the group");
        let place = Place::open(&self.dirs, &found).expect("its place");
        let claims = Claims::open(&self.dirs, &place).expect("its claims");
        let file = self.dirs.data.join("ipc").join(group).join(kind.name()).join("x.json");
        fs::write(&file, operation.to_string()).expect("write a file");
        let finished = claims.take((&self.store, &self.desk, &place), (kind, OsStr::new("x.json")));
        assert!(finished.is_some() && !file.exists() && claims.left().is_empty(), "{finished:?}");
    }

    /// Does the tasks that are due, and says what their agents say; for each group what
    /// is not its own stays as it was.
    fn work(&self) -> Result<(), TestCaseError> {
        self.store.make_due().expect("look for tasks");
        for group in GROUPS {
            let before = self.of_others(group);
            while let Some((run, task)) = self.store.begin_task(group).expect("begin a task") {
                let end = TaskEnd { replies: vec!["done".to_owned()], ..TaskEnd::default() };
                self.store.end_task(&run, &task, &end).expect("end it");
            }
            prop_assert_eq!(self.of_others(group), before, "tasks of {}", group);
        }
        Ok(())
    }

    fn rows(&self, query: &str) -> Vec<String> {
        let rows = self.store.write("look into", |transaction| {
            let mut statement = transaction.prepare(query)?;
            let columns = statement.column_count();
            let rows = statement.query_map([], |row| {
                (0..columns).map(|at| Ok(format!("{:?} ", row.get_ref(at)?))).collect::<rusqlite::Result<String>>()
            })?;
            Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        });
        rows.expect("rows")
    }

    /// Everything that is not a group's own.
    fn of_others(&self, group: &str) -> Vec<String> {
        let mut all = self.rows("SELECT * FROM binding ORDER BY grp");
        for table in ["task", "task_run", "message", "session", "approval"] {
            all.extend(self.rows(&format!("SELECT * FROM {table} WHERE grp <> '{group}' ORDER BY 1, 2")));
        }
        all.extend(self.rows(&format!(
            "SELECT * FROM outgoing WHERE chat <> 'local:{group}' AND \
             chat NOT IN (SELECT jid FROM binding WHERE grp = '{group}') ORDER BY seq"
        )));
        all.extend(self.rows("SELECT * FROM permit"));
        all.extend(self.rows("SELECT * FROM chat"));
        all.push(fs::read_to_string(self.dirs.data.join("groups.json")).expect("the registry"));
        all.push(format!("{:?}", self.names()));
        all
    }

    /// The directories of groups.
    fn names(&self) -> Vec<String> {
        let below = |name: &str| fs::read_dir(self.dirs.data.join(name)).into_iter().flatten().flatten();
        let names =
            below("groups").chain(below("sessions")).map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name != MAIN).collect();
        names.sort();
        names
    }

    /// What no agent changes, main's neither.
    fn is_the_persons(&self) -> Vec<String> {
        let mut all = self.rows("SELECT jid, mention FROM binding WHERE grp = 'main'");
        let groups = Groups::new(&self.dirs).list().expect("groups");
        all.extend(groups.iter().filter(|group| group.trust() == Trust::Trusted).map(|group| group.name.to_string()));
        all.extend(SETTINGS.map(|(name, _)| fs::read_to_string(self.dirs.config.join(name)).expect("read it")));
        let beside = |path: &std::path::Path| {
            let names = fs::read_dir(path).expect("a directory").flatten().map(|entry| entry.file_name());
            let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        all.extend(beside(&self.dirs.config));
        all.extend(beside(self.home.path()));
        all
    }
}

/// Which way.
#[derive(Debug, Clone, Copy)]
enum By {
    Messages,
    Tasks,
    Mcp,
}

fn one_of(these: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop::sample::select(these).prop_map(Value::from)
}

fn maybe(these: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), one_of(these)]
}

const CHATS: [&str; 10] =
    ["irc:#main", "irc:#a", "irc:#b", "irc:#new", "irc:#free", "local:main", "local:a", "local:b", "local:new", "a\nb"];

fn operation() -> impl Strategy<Value = Value> {
    let task = || one_of(&["t-main", "t-a", "t-b", "made", "none", ""]);
    let message = maybe(&CHATS).prop_map(|chat| json!({"type": "message", "chatJid": chat, "text": "hello"}));
    let order = (maybe(&CHATS), maybe(&["made", "t-a", "t-main", "../x"]), one_of(&["group", "isolated"]));
    let order = order.prop_map(|(target, id, context)| {
        json!({"type": "schedule_task", "prompt": "p", "schedule_type": "once", "schedule_value": LATER,
            "targetJid": target, "taskId": id, "context_mode": context})
    });
    let change = (
        one_of(&["pause_task", "resume_task", "cancel_task", "update_task", "get_task"]),
        task(),
        one_of(&[LATER, EARLIER]),
    );
    let change = change.prop_map(|(what, task, value)| {
        json!({"type": what, "taskId": task, "prompt": "changed", "schedule_type": "once", "schedule_value": value})
    });
    let register = (
        one_of(&CHATS),
        one_of(&["main", "MAIN", "a", "b", "new", "../config", "global"]),
        prop_oneof![Just(Value::Null), Just(json!(true)), Just(json!(false))],
        prop_oneof![Just(Value::Null), Just(json!({"additionalMounts": []}))],
    );
    let register = register.prop_map(|(jid, folder, is_main, mounts)| {
        json!({"type": "register_group", "jid": jid, "name": "n", "folder": folder, "isMain": is_main,
            "containerConfig": mounts, "requiresTrigger": false})
    });
    let other = prop_oneof![
        one_of(&["list_tasks", "list_groups", "refresh_groups"]).prop_map(|what| json!({"type": what})),
        (maybe(&["example.org", "*"]), maybe(&["token"])).prop_map(
            |(host, secret)| json!({"type": "request_access", "host": host, "secret": secret, "reason": "r"})
        ),
    ];
    let claiming = (any::<bool>(), one_of(&GROUPS));
    (prop_oneof![2 => message, 2 => order, 3 => change, 3 => register, 1 => other], claiming).prop_map(
        |(mut operation, (claims, group))| {
            for field in ["groupFolder", "sourceGroup", "group", "createdBy"] {
                if claims {
                    operation[field] = group.clone();
                }
            }
            operation
        },
    )
}

fn step() -> impl Strategy<Value = (&'static str, Value, By)> {
    let by = prop_oneof![Just(By::Messages), Just(By::Tasks), Just(By::Mcp)];
    let any = (prop::sample::select(&GROUPS[..]), operation(), by).prop_map(|(group, operation, by)| {
        // Most in the right directory.
        let by = match (by, operation["type"] == "message") {
            (By::Tasks, true) if operation["chatJid"] != Value::Null => By::Messages,
            (By::Messages, false) => By::Tasks,
            (by, _) => by,
        };
        (group, operation, by)
    });
    // Chats go from one group to another, as only main can have it.
    let move_chat =
        (one_of(&["irc:#a", "irc:#b", "irc:#free", "irc:#new"]), one_of(&["a", "b"])).prop_map(|(jid, folder)| {
            (MAIN, json!({"type": "register_group", "jid": jid, "name": "n", "folder": folder}), By::Tasks)
        });
    let due = prop::sample::select(&[("a", "t-a"), ("b", "t-b")][..]).prop_map(|(group, task)| {
        let change = json!({"type": "update_task", "taskId": task, "schedule_type": "once", "schedule_value": EARLIER});
        (group, change, By::Tasks)
    });
    prop_oneof![6 => any, 2 => move_chat, 1 => due]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_operations_touches_what_is_anothers(steps in prop::collection::vec(step(), 5..40)) {
        let world = World::new();
        let persons = world.is_the_persons();
        for (group, operation, by) in &steps {
            let before = world.of_others(group);
            world.ask(group, operation, *by);
            if *group != MAIN {
                prop_assert_eq!(world.of_others(group), before, "{} {} {:?}", group, operation, by);
            }
            prop_assert_eq!(world.is_the_persons(), persons.clone(), "{} {} {:?}", group, operation, by);
            world.work()?;
        }
        // And each can still do what is its own.
        for group in GROUPS {
            let count = || world.rows(&format!("SELECT seq FROM outgoing WHERE grp = '{group}'")).len();
            let before = count();
            world.ask(group, &json!({"type": "message", "text": "own"}), By::Messages);
            prop_assert_eq!(count(), before + 1);
        }
    }
}
