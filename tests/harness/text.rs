//! Text that several tests look for.

/// The answers of a probe: one JSON object a line, `name` and `answer`.
pub fn answers(text: &str) -> std::collections::BTreeMap<String, String> {
    text.lines()
        .map(|line| {
            let value: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("the probe printed `{line}`: {error}"));
            let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            (field("name"), field("answer"))
        })
        .collect()
}
