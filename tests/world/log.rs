//! Reading what the origins wrote down.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// The lines of a file, each a JSON object; none when it is not there.
pub fn json_lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path)
        .unwrap_or_default()
        // The last line may be on its way.
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect()
}

/// All values of a header of a request.
pub fn all_headers(request: &Value, name: &str) -> Vec<String> {
    let pairs = request["headers"].as_array().expect("a request has headers");
    let named = pairs.iter().filter(|pair| pair[0] == name);
    named.filter_map(|pair| pair[1].as_str().map(str::to_owned)).collect()
}

/// The value of a header that a request has at most once.
pub fn header(request: &Value, name: &str) -> Option<String> {
    let mut all = all_headers(request, name);
    assert!(all.len() < 2, "{name} came more than once: {all:?}");
    all.pop()
}
