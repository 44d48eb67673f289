//! What the tests of the tools share: a client in Python, and how results are read.

// Each test executable compiles this module, and uses a part of it.
#![allow(dead_code)]

use rusqlite::Connection;
use serde_json::Value;

use crate::harness::{Jar, Live, Outcome};
use crate::world::World;

/// Calls tools, as a client that knows nothing but the address.
pub const CLIENT: &str = r#"
import json, os, socket, sys, urllib.request, urllib.error
URL = 'http://belljar.internal/mcp'
def post(body, url=URL, method='POST', **headers):
    made = {'Content-Type': 'application/json', 'Accept': 'application/json, text/event-stream'}
    made.update({name.replace('_', '-'): value for name, value in headers.items()})
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=made, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
def rpc(method, params=None, **headers):
    status, text = post({'jsonrpc': '2.0', 'id': 1, 'method': method, 'params': params or {}}, **headers)
    return json.loads(text) if status == 200 else {'status': status, 'text': text}
def call(name, arguments=None, **headers):
    answer = rpc('tools/call', {'name': name, 'arguments': arguments or {}}, **headers)
    return answer.get('result') or answer
def tell(**what):
    print(json.dumps(what), flush=True)
"#;

/// A Python program in a belljar, which prints lines of JSON.
pub fn python(world: &World, options: &[&str], script: &str) -> Vec<Value> {
    let out = world.run(options, &["/usr/bin/python3", "-c", &format!("{CLIENT}\n{script}")]).success();
    out.out().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// The store, as a file.
pub fn store(jar: &Jar) -> Connection {
    Connection::open(jar.path("belljar/data/belljar.db")).expect("open the store")
}

/// Rows of a query with one column of text.
pub fn texts(jar: &Jar, query: &str) -> Vec<String> {
    let store = store(jar);
    let mut statement = store.prepare(query).expect("a query");
    let rows = statement.query_map([], |row| row.get(0)).expect("rows");
    rows.map(|row| row.expect("text")).collect()
}

/// The words of a result.
pub fn text(result: &Value) -> String {
    result["content"][0]["text"].as_str().unwrap_or_default().to_owned()
}

/// Neither this nor that is an error.
pub fn done(result: &Value) {
    assert_eq!(result["isError"], false, "{result}");
}

/// It is an error, in these words.
pub fn refused(result: &Value, words: &str) {
    assert!(result["isError"] == true && text(result).contains(words), "not `{words}`: {result}");
}

/// Such a program, which goes on.
pub fn start(world: &World, options: &[&str], script: &str) -> Live {
    world.start(options, &["/usr/bin/python3", "-c", &format!("{CLIENT}\n{script}")])
}

/// The lines of JSON that were printed.
pub fn lines(out: &Outcome) -> Vec<Value> {
    out.out().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// The answer of this name.
pub fn of<'a>(answers: &'a [Value], name: &str) -> &'a Value {
    let found = answers.iter().find(|one| one["name"] == name);
    &found.unwrap_or_else(|| panic!("{name}: {answers:?}"))["answer"]
}
