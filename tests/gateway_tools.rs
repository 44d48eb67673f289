//! Promise: what agents work with goes through the gateway unasked: it trusts
//! belljar's authority, obeys or ignores the proxy variables, and its
//! credential reaches the origin in the right header, and nothing else does.

mod harness;
mod world;

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use harness::{Outcome, finish, skip, system_program};
use serde_json::Value;
use world::{TOKEN, World, all_headers, has};

/// The last request that an origin of this name got below this path.
fn last(world: &World, host: &str, path: &str) -> Value {
    let found = world.requests_to(path).into_iter().rfind(|one| one["sni"] == host);
    found.unwrap_or_else(|| panic!("nothing of {path} came to {host}: {:?}", world.requests()))
}

fn basic(user: &str) -> String {
    use base64::Engine;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{TOKEN}")))
}

/// Neither what the agent printed nor what it wrote holds the value.
fn clean(world: &World, out: &Outcome) {
    assert!(!out.out().contains(TOKEN) && !out.err().contains(TOKEN), "{} {}", out.out(), out.err());
    let mut command = std::process::Command::new("grep");
    command.args(["-rlF", TOKEN]).arg(world.jar.path("belljar"));
    world.jar.surround(&mut command);
    assert_eq!(finish(command, b"").out(), "");
}

#[test]
fn git_clones_a_private_repository_over_https() {
    if !has("git") {
        return;
    }
    let Some(world) = World::new() else { return };
    world.secret("github", &["--preset", "github"], TOKEN);
    let script = "git clone -q https://github.com/owner/private.git; cat private/hello.txt; unset HTTPS_PROXY https_proxy; \
        git clone -q https://github.com/owner/private.git second; cat second/hello.txt; cat private/.git/config; \
        git -C second fetch -q; git ls-remote https://github.com/owner/private.git | wc -l";
    let out = world.sh(script).success();
    assert!(out.out().starts_with("from the origin\nfrom the origin\n"), "{} {}", out.out(), out.err());
    let request = last(&world, "github.com", "/owner/private.git/info/refs");
    assert_eq!(all_headers(&request, "authorization"), [basic("x-access-token")]);
    clean(&world, &out);
    let control = world.outside("git", &["clone", "-q", "https://github.com/owner/private.git", "control"]);
    assert_ne!(control.code, 0, "without the credential it is refused");
}

#[test]
fn node_fetches_with_and_without_the_proxy_variables() {
    if !has("node") {
        return;
    }
    let Some(world) = World::new() else { return };
    world.secret("openai", &["--preset", "openai"], TOKEN);
    let script = "const https = require('https');
        (async () => {
          const headers = {authorization: 'Bearer ' + process.env.OPENAI_API_KEY};
          console.log((await fetch('https://api.openai.com/v1/chat/completions', {method: 'POST', headers, body: '{}'})).status);
          https.get('https://api.openai.com/v1/models', {headers}, answer => { console.log(answer.statusCode); answer.resume(); });
        })();";
    for prefix in ["", "unset NODE_USE_ENV_PROXY HTTPS_PROXY https_proxy; "] {
        let out = world.run(&[], &["sh", "-c", &format!("{prefix}exec node -e \"$0\""), script]).success();
        assert_eq!(out.out(), "404\n200\n", "{}", out.err());
        for path in ["/v1/chat", "/v1/models"] {
            assert_eq!(
                all_headers(&last(&world, "api.openai.com", path), "authorization"),
                [format!("Bearer {TOKEN}")]
            );
        }
        clean(&world, &out);
    }
}

#[test]
fn python_reads_with_its_own_library_and_with_requests() {
    let Some(world) = World::new() else { return };
    world.secret("key", &["--host", "a.test", "--bearer"], TOKEN);
    let script = "import urllib.request, http.client, ssl
print(urllib.request.urlopen('https://a.test/urllib').status)
link = http.client.HTTPSConnection('a.test'); link.request('GET', '/client'); print(link.getresponse().status)";
    let out = world.run(&[], &["/usr/bin/python3", "-c", script]).success();
    assert_eq!(out.out(), "200\n200\n", "{}", out.err());
    for path in ["/urllib", "/client"] {
        assert_eq!(all_headers(&last(&world, "a.test", path), "authorization"), [format!("Bearer {TOKEN}")]);
    }
    clean(&world, &out);
    if !Path::new("/usr/lib/python3/dist-packages/requests").exists() {
        skip("python3-requests");
        return;
    }
    let script = "import requests
print(requests.get('https://a.test/requests', headers={'Authorization': 'Bearer placeholder'}).status_code)
session = requests.Session(); session.trust_env = False
print(session.get('https://a.test/direct', verify='/run/belljar/ca-bundle.pem').status_code)";
    let out = world.run(&[], &["/usr/bin/python3", "-c", script]).success();
    assert_eq!(out.out(), "200\n200\n", "{}", out.err());
    for path in ["/requests", "/direct"] {
        assert_eq!(all_headers(&last(&world, "a.test", path), "authorization"), [format!("Bearer {TOKEN}")]);
    }
    clean(&world, &out);
}

#[test]
fn npm_installs_from_a_registry_that_wants_a_token() {
    if !has("npm") {
        return;
    }
    let Some(world) = World::new() else { return };
    world.secret("npm", &["--preset", "npm"], TOKEN);
    let script = "echo '//registry.npmjs.org/:_authToken=${NPM_TOKEN}' > .npmrc; npm install --no-audit --no-fund --fetch-retries 0 tiny-package >&2; \
        node -e \"console.log(require('tiny-package'))\"";
    let out = world.sh(script).success();
    assert_eq!(out.out(), "tiny\n", "{}", out.err());
    let request = last(&world, "registry.npmjs.org", "/tiny-package");
    assert_eq!(all_headers(&request, "authorization"), [format!("Bearer {TOKEN}")]);
    clean(&world, &out);
}

#[test]
fn pip_installs_from_an_index_that_wants_a_password() {
    if !Path::new("/usr/lib/python3/dist-packages/pip").exists() {
        skip("python3-pip");
        return;
    }
    let Some(world) = World::new() else { return };
    world.secret("pypi", &["--host", "pypi.org", "--basic", "__token__"], TOKEN);
    let script = "/usr/bin/python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check --retries 0 --target there \
        --index-url https://pypi.org/simple/private/ tinypkg >&2; PYTHONPATH=there /usr/bin/python3 -c 'import tinypkg; print(tinypkg.NAME)'";
    let out = world.sh(script).success();
    assert_eq!(out.out(), "tiny\n", "{}", out.err());
    assert_eq!(
        all_headers(&last(&world, "pypi.org", "/simple/private/tinypkg"), "authorization"),
        [basic("__token__")]
    );
    let file = last(&world, "files.pythonhosted.org", "/packages/");
    assert!(all_headers(&file, "authorization").is_empty(), "another host gets nothing");
    clean(&world, &out);
}

#[test]
fn cargo_asks_the_index() {
    if system_program("cargo").is_none() {
        skip("cargo below /usr");
        return;
    }
    let Some(world) = World::new() else { return };
    world.config("inspect = \"all\"\n");
    let script = "mkdir -p c/src; cd c; printf '[package]\\nname=\"x\"\\nversion=\"0.1.0\"\\n[dependencies]\\nnot-there-zz=\"1\"\\n' > Cargo.toml; \
        echo > src/lib.rs; CARGO_NET_RETRY=0 CARGO_HOME=$PWD/home CARGO_REGISTRIES_CRATES_IO_PROTOCOL=sparse /usr/bin/cargo fetch";
    let out = world.sh(script);
    assert!(!out.err().contains("certificate") && !out.err().contains("SSL"), "{}", out.err());
    last(&world, "index.crates.io", "/config.json");
}

#[test]
fn deno_and_java_trust_it_too() {
    let Some(world) = World::new() else { return };
    world.config("inspect = \"all\"\n");
    if has("deno") {
        let out =
            world.run(&[], &["deno", "eval", "console.log((await fetch('https://a.test/deno')).status)"]).success();
        assert_eq!(out.out(), "200\n", "{}", out.err());
        last(&world, "a.test", "/deno");
    }
    if !has("java") || !has("javac") {
        return;
    }
    let source = "import java.net.*; import java.net.http.*;
public class Ask { public static void main(String[] words) throws Exception {
  System.out.println(((HttpURLConnection) new URL(\"https://a.test/java\").openConnection()).getResponseCode());
  var request = HttpRequest.newBuilder(URI.create(\"https://a.test/java-client\")).build();
  System.out.println(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
} }\n";
    fs::create_dir_all(world.jar.group("main")).expect("make the group's folder");
    fs::write(world.jar.group("main").join("Ask.java"), source).expect("write a file");
    let out = world.run(&[], &["java", "Ask.java"]).success();
    assert_eq!(out.out(), "200\n200\n", "{}", out.err());
    last(&world, "a.test", "/java-client");
}

#[test]
fn claude_code_holds_a_conversation() {
    let Some(prefix) = std::env::var_os("BELLJAR_CLAUDE").filter(|prefix| !prefix.is_empty()) else {
        skip("BELLJAR_CLAUDE, the prefix below which npm installed @anthropic-ai/claude-code");
        return;
    };
    let Some(world) = World::new() else { return };
    world.secret("claude", &["--preset", "anthropic"], TOKEN);
    let mut path = OsString::from(Path::new(&prefix).join("bin"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let options = ["-e", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1"];
    let mut command = world.run_command(&options, &["claude", "-p", "What is the jar?"]);
    command.env("PATH", &path);
    if let Some(home) = std::env::var_os("HOME") {
        command.env("HOME", home);
    }
    let out = finish(command, b"").success();
    assert!(out.out().contains("The jar is sealed."), "{} {}\n{:?}", out.out(), out.err(), world.requests());
    let request = last(&world, "api.anthropic.com", "/v1/messages");
    assert_eq!(all_headers(&request, "x-api-key"), [TOKEN]);
    assert!(all_headers(&request, "authorization").is_empty());
    clean(&world, &out);
}
