//! What belljar knows of vendors: where a credential goes, in which header,
//! which variable the vendor's tools read, and which endpoints make or show
//! credentials. One table; the sources are the vendors' API references.
//!
//! Paths of denied endpoints end in `*`, because some servers take a format
//! (`.json`) after the name; but where projects have names of their own at the
//! root, in `/*`, so that none is denied for how its name begins.

use super::record::{Binding, Endpoint, Injection, PLACEHOLDER, Record};
use crate::error::{Error, Result};

/// A vendor.
pub struct Preset {
    /// What `--preset` is given.
    pub name: &'static str,
    /// Where the vendor's API is, unless `--host` says otherwise.
    pub host: &'static str,
    /// In order; the first that matches a request is used.
    routes: &'static [Route],
    denied: &'static [Deny],
    /// Variables of the agent and what stands in them.
    variables: &'static [(&'static str, &'static str)],
    /// What takes this preset's place when `--host` names another host.
    elsewhere: Option<&'static Preset>,
    /// What takes its place for a value that begins like this.
    other_value: Option<(&'static str, &'static Preset)>,
}

/// A binding; an empty host is the preset's own.
struct Route {
    host: &'static str,
    path: &'static str,
    how: How,
    strip: &'static [&'static str],
}

enum How {
    Header(&'static str, &'static str),
    Bearer,
    Basic(&'static str),
}

/// A denied endpoint; an empty host is the preset's own, no methods are all.
struct Deny {
    host: &'static str,
    methods: &'static [&'static str],
    path: &'static str,
}

const CHANGES: &[&str] = &["POST", "PUT", "PATCH", "DELETE"];

const fn route(host: &'static str, path: &'static str, how: How) -> Route {
    Route { host, path, how, strip: &[] }
}

const fn deny(path: &'static str) -> Deny {
    Deny { host: "", methods: &[], path }
}

const fn deny_changes(path: &'static str) -> Deny {
    Deny { host: "", methods: CHANGES, path }
}

const fn deny_at(host: &'static str, path: &'static str) -> Deny {
    Deny { host, methods: &[], path }
}

const ANTHROPIC_DENIED: &[Deny] = &[
    // The Admin API: keys, members, invitations, workspaces.
    deny("/v1/organizations*"),
    // Chats and files of the whole organisation.
    deny("/v1/compliance*"),
    // Claude Code makes an API key of an OAuth token here.
    deny("/api/oauth/claude_cli/create_api_key*"),
    // Tokens of OAuth, where the API's host serves them.
    deny("/v1/oauth*"),
    deny("/oauth*"),
];

/// API keys of the console, in a header of their own. An Authorization header
/// beside it would be judged first.
const ANTHROPIC: Preset = Preset {
    name: "anthropic",
    host: "api.anthropic.com",
    routes: &[Route { host: "", path: "/*", how: How::Header("x-api-key", "{value}"), strip: &["authorization"] }],
    denied: ANTHROPIC_DENIED,
    variables: &[("ANTHROPIC_API_KEY", PLACEHOLDER)],
    elsewhere: None,
    other_value: Some(("sk-ant-oat", &ANTHROPIC_OAUTH)),
};

/// Tokens of `claude setup-token`, for a subscription: Claude Code sends the
/// headers that belong to them when it gets them in this variable.
const ANTHROPIC_OAUTH: Preset = Preset {
    routes: &[Route { host: "", path: "/*", how: How::Bearer, strip: &["x-api-key"] }],
    variables: &[("CLAUDE_CODE_OAUTH_TOKEN", PLACEHOLDER)],
    name: "anthropic",
    host: "api.anthropic.com",
    denied: ANTHROPIC_DENIED,
    elsewhere: None,
    other_value: None,
};

const OPENAI: Preset = Preset {
    name: "openai",
    host: "api.openai.com",
    routes: &[route("", "/*", How::Bearer)],
    denied: &[
        // Administration: admin keys, projects and their keys, service accounts.
        deny("/v1/organization*"),
        // Keys for browsers, valid for a minute and more.
        deny("/v1/realtime/client_secrets*"),
        deny("/v1/realtime/*/client_secrets*"),
        deny("/v1/realtime/sessions*"),
        deny("/v1/realtime/transcription_sessions*"),
        deny("/v1/chatkit/sessions*"),
        // What the web pages call: keys of users among it.
        deny("/dashboard*"),
        deny("/v1/dashboard*"),
        deny("/v1/oauth*"),
    ],
    variables: &[("OPENAI_API_KEY", PLACEHOLDER)],
    elsewhere: None,
    other_value: None,
};

/// The API, and git over HTTPS, which wants basic authentication with a user
/// that is not looked at. On github.com only what git and git-lfs ask for: the
/// web pages take no tokens. codeload.github.com is left out; the API redirects
/// there with a token of its own.
const GITHUB: Preset = Preset {
    name: "github",
    host: "api.github.com",
    routes: &[
        route("", "/*", How::Bearer),
        route("uploads.github.com", "/*", How::Bearer),
        route("raw.githubusercontent.com", "/*", How::Bearer),
        route("github.com", "/*/*/info/refs", How::Basic("x-access-token")),
        route("github.com", "/*/*/git-upload-pack", How::Basic("x-access-token")),
        route("github.com", "/*/*/git-receive-pack", How::Basic("x-access-token")),
        route("github.com", "/*/*/info/lfs/*", How::Basic("x-access-token")),
    ],
    denied: &[
        // Apps: installation tokens, the secrets of a new app, tokens of users.
        deny("/app/installations/*/access_tokens*"),
        deny("/app-manifests*"),
        deny("/app/hook/config*"),
        deny("/applications*"),
        deny("/installation/token*"),
        deny("/authorizations*"),
        // Whoever has a runner gets the jobs, and their secrets. GitHub serves each
        // also under the number of the repository or organisation.
        deny("/repos/*/*/actions/runners/registration-token*"),
        deny("/repositories/*/actions/runners/registration-token*"),
        deny("/repos/*/*/actions/runners/remove-token*"),
        deny("/repositories/*/actions/runners/remove-token*"),
        deny("/repos/*/*/actions/runners/generate-jitconfig*"),
        deny("/repositories/*/actions/runners/generate-jitconfig*"),
        deny("/orgs/*/actions/runners/registration-token*"),
        deny("/organizations/*/actions/runners/registration-token*"),
        deny("/orgs/*/actions/runners/remove-token*"),
        deny("/organizations/*/actions/runners/remove-token*"),
        deny("/orgs/*/actions/runners/generate-jitconfig*"),
        deny("/organizations/*/actions/runners/generate-jitconfig*"),
        deny("/enterprises/*/actions/runners/registration-token*"),
        deny("/enterprises/*/actions/runners/remove-token*"),
        deny("/enterprises/*/actions/runners/generate-jitconfig*"),
        deny("/actions/runner-registration*"),
        // Keys that let somebody in who has no token.
        deny("/repos/*/*/keys*"),
        deny("/repositories/*/keys*"),
        deny("/user/keys*"),
        deny("/user/gpg_keys*"),
        deny("/user/ssh_signing_keys*"),
        // Tokens of an organisation's members.
        deny("/orgs/*/personal-access-tokens*"),
        deny("/organizations/*/personal-access-tokens*"),
        deny("/orgs/*/personal-access-token-requests*"),
        deny("/organizations/*/personal-access-token-requests*"),
        deny("/orgs/*/credential-authorizations*"),
        deny("/organizations/*/credential-authorizations*"),
        deny("/enterprises/*/credential-authorizations*"),
        // Tokens for Copilot, made of any token of a user.
        deny("/copilot_internal*"),
        // OAuth, device codes.
        deny_at("github.com", "/login/oauth*"),
        deny_at("github.com", "/login/device*"),
    ],
    variables: &[("GITHUB_TOKEN", PLACEHOLDER), ("GH_TOKEN", PLACEHOLDER)],
    elsewhere: Some(&GITHUB_ENTERPRISE),
    other_value: None,
};

/// GitHub Enterprise Server has the API below /api and its own variables in gh.
const GITHUB_ENTERPRISE: Preset = Preset {
    name: "github",
    host: "",
    routes: &[
        route("", "/api/*", How::Bearer),
        route("", "/raw/*", How::Bearer),
        route("", "/*/*/info/refs", How::Basic("x-access-token")),
        route("", "/*/*/git-upload-pack", How::Basic("x-access-token")),
        route("", "/*/*/git-receive-pack", How::Basic("x-access-token")),
        route("", "/*/*/info/lfs/*", How::Basic("x-access-token")),
    ],
    denied: &[
        deny("/api/v3/app/installations/*/access_tokens*"),
        deny("/api/v3/app-manifests*"),
        deny("/api/v3/app/hook/config*"),
        deny("/api/v3/applications*"),
        deny("/api/v3/installation/token*"),
        deny("/api/v3/authorizations*"),
        deny("/api/v3/repos/*/*/actions/runners/registration-token*"),
        deny("/api/v3/repositories/*/actions/runners/registration-token*"),
        deny("/api/v3/repos/*/*/actions/runners/remove-token*"),
        deny("/api/v3/repositories/*/actions/runners/remove-token*"),
        deny("/api/v3/repos/*/*/actions/runners/generate-jitconfig*"),
        deny("/api/v3/repositories/*/actions/runners/generate-jitconfig*"),
        deny("/api/v3/orgs/*/actions/runners/registration-token*"),
        deny("/api/v3/organizations/*/actions/runners/registration-token*"),
        deny("/api/v3/orgs/*/actions/runners/remove-token*"),
        deny("/api/v3/organizations/*/actions/runners/remove-token*"),
        deny("/api/v3/orgs/*/actions/runners/generate-jitconfig*"),
        deny("/api/v3/organizations/*/actions/runners/generate-jitconfig*"),
        deny("/api/v3/enterprises/*/actions/runners/registration-token*"),
        deny("/api/v3/enterprises/*/actions/runners/remove-token*"),
        deny("/api/v3/enterprises/*/actions/runners/generate-jitconfig*"),
        deny("/api/v3/actions/runner-registration*"),
        deny("/api/v3/repos/*/*/keys*"),
        deny("/api/v3/repositories/*/keys*"),
        deny("/api/v3/user/keys*"),
        deny("/api/v3/user/gpg_keys*"),
        deny("/api/v3/user/ssh_signing_keys*"),
        deny("/api/v3/orgs/*/personal-access-tokens*"),
        deny("/api/v3/organizations/*/personal-access-tokens*"),
        deny("/api/v3/orgs/*/personal-access-token-requests*"),
        deny("/api/v3/organizations/*/personal-access-token-requests*"),
        deny("/api/v3/orgs/*/credential-authorizations*"),
        deny("/api/v3/organizations/*/credential-authorizations*"),
        // The site's administrators: impersonation, all keys, the set-up.
        deny("/api/v3/admin*"),
        deny("/api/v3/setup*"),
        deny("/api/v3/manage*"),
        deny("/setup/api*"),
        deny("/manage/*"),
        deny("/login/oauth*"),
        deny("/login/device*"),
    ],
    variables: &[("GH_ENTERPRISE_TOKEN", PLACEHOLDER), ("GITHUB_ENTERPRISE_TOKEN", PLACEHOLDER)],
    elsewhere: None,
    other_value: None,
};

/// The REST API, and git over HTTPS with basic authentication for the rest:
/// projects lie at any depth, so that git's paths cannot be told by segments.
/// No GraphQL: by it CI variables can be read and tokens made, and all of it has
/// one path.
const GITLAB: Preset = Preset {
    name: "gitlab",
    host: "gitlab.com",
    routes: &[
        Route {
            host: "",
            path: "/api/v4/*",
            how: How::Header("private-token", "{value}"),
            strip: &["authorization", "job-token", "deploy-token"],
        },
        Route {
            host: "",
            path: "/*",
            how: How::Basic("oauth2"),
            strip: &["private-token", "job-token", "deploy-token"],
        },
    ],
    denied: &[
        deny("/api/graphql*"),
        // Tokens of users, projects, groups, service accounts, agents.
        deny("/api/v4/personal_access_tokens*"),
        deny("/api/v4/user/personal_access_tokens*"),
        deny("/api/v4/users/*/personal_access_tokens*"),
        deny("/api/v4/users/*/impersonation_tokens*"),
        deny("/api/v4/user/support_pin*"),
        deny("/api/v4/users/*/support_pin*"),
        deny("/api/v4/projects/*/access_tokens*"),
        deny("/api/v4/groups/*/access_tokens*"),
        deny("/api/v4/service_accounts*"),
        deny("/api/v4/groups/*/service_accounts*"),
        deny("/api/v4/projects/*/service_accounts*"),
        deny("/api/v4/projects/*/cluster_agents/*/tokens*"),
        deny("/api/v4/deploy_tokens*"),
        deny("/api/v4/projects/*/deploy_tokens*"),
        deny("/api/v4/groups/*/deploy_tokens*"),
        deny("/api/v4/projects/*/triggers*"),
        deny("/api/v4/projects/*/error_tracking/client_keys*"),
        // Keys that let somebody in who has no token.
        deny("/api/v4/deploy_keys*"),
        deny("/api/v4/projects/*/deploy_keys*"),
        deny("/api/v4/user/keys*"),
        deny("/api/v4/users/*/keys*"),
        deny("/api/v4/user/gpg_keys*"),
        deny("/api/v4/users/*/gpg_keys*"),
        deny("/api/v4/groups/*/ssh_certificates*"),
        // Whoever has a runner gets the jobs, and their secrets.
        deny_changes("/api/v4/runners*"),
        deny("/api/v4/user/runners*"),
        deny("/api/v4/runner_controllers*"),
        deny("/api/v4/projects/*/runners/reset_registration_token*"),
        deny("/api/v4/groups/*/runners/reset_registration_token*"),
        // CI variables and files are shown in clear.
        deny("/api/v4/projects/*/variables*"),
        deny("/api/v4/groups/*/variables*"),
        deny("/api/v4/projects/*/pipelines/*/variables*"),
        deny("/api/v4/projects/*/pipeline_schedules/*"),
        deny("/api/v4/projects/*/secure_files*"),
        // Answers a short-lived token.
        deny("/api/v4/code_suggestions/direct_access*"),
        // The instance: settings hold the registration token and passwords.
        deny("/api/v4/admin*"),
        deny("/api/v4/application/*"),
        deny("/api/v4/applications*"),
        deny("/api/v4/internal*"),
        // OAuth, tokens for the registry of images, the pages of settings.
        deny("/oauth/*"),
        deny("/jwt/auth*"),
        deny("/-/*"),
    ],
    variables: &[("GITLAB_TOKEN", PLACEHOLDER)],
    elsewhere: None,
    other_value: None,
};

/// npm reads the variable where .npmrc has
/// `//registry.npmjs.org/:_authToken=${NPM_TOKEN}`.
const NPM: Preset = Preset {
    name: "npm",
    host: "registry.npmjs.org",
    routes: &[route("", "/*", How::Bearer)],
    denied: &[
        deny("/-/npm/v1/tokens*"),
        deny("/-/v1/login*"),
        deny("/-/v1/done*"),
        deny("/-/user/*"),
        deny("/-/npm/v1/oidc*"),
        deny("/-/npm/v1/security/oidc*"),
        // The second factor is set here, and shown once.
        deny_changes("/-/npm/v1/user*"),
        // Who may publish without any token.
        deny_changes("/-/package/*/trust*"),
    ],
    variables: &[("NPM_TOKEN", PLACEHOLDER)],
    elsewhere: None,
    other_value: None,
};

/// Uploads only: nothing else takes the token. twine wants the user too.
const PYPI: Preset = Preset {
    name: "pypi",
    host: "upload.pypi.org",
    routes: &[route("", "/legacy/*", How::Basic("__token__"))],
    denied: &[
        // Trusted publishing makes tokens of the identity of a build.
        deny("/_/oidc*"),
        deny_at("pypi.org", "/_/oidc*"),
        deny_at("pypi.org", "/manage/*"),
        deny_at("pypi.org", "/account/*"),
    ],
    variables: &[("TWINE_USERNAME", "__token__"), ("TWINE_PASSWORD", PLACEHOLDER)],
    elsewhere: None,
    other_value: None,
};

/// The vendors. `generic`, which knows none, is the command line's.
pub const ALL: [&Preset; 6] = [&ANTHROPIC, &OPENAI, &GITHUB, &GITLAB, &NPM, &PYPI];

/// What a preset makes of a value's place.
#[derive(Debug)]
pub struct Expanded {
    /// Where the value goes.
    pub bindings: Vec<Binding>,
    /// What is denied.
    pub denied: Vec<Endpoint>,
    /// The agent's variables.
    pub variables: Vec<(String, String)>,
}

/// The preset of this name, for this value, at another host where one is given.
pub fn expand(name: &str, host: Option<&str>, port: u16, value: &[u8]) -> Result<Expanded> {
    let mut preset = *ALL.iter().find(|preset| preset.name == name).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|preset| preset.name).collect();
        Error::refused(format!("there is no preset `{name}`")).hint(format!("one of {} generic", names.join(" ")))
    })?;
    if let Some((_, other)) = preset.other_value.filter(|(begins, _)| value.starts_with(begins.as_bytes())) {
        preset = other;
    }
    let own = host.unwrap_or(preset.host);
    let is_elsewhere = own != preset.host;
    if let Some(elsewhere) = preset.elsewhere.filter(|_| is_elsewhere) {
        preset = elsewhere;
    }
    // The vendor's other hosts are not those of somebody's own installation.
    let meant = |host: &&str| host.is_empty() || !is_elsewhere;
    let name_of = |host: &str| if host.is_empty() { own.to_owned() } else { host.to_owned() };
    let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect::<Vec<String>>();
    let bindings = preset.routes.iter().filter(|route| meant(&route.host)).map(|route| Binding {
        host: name_of(route.host),
        port,
        path: route.path.to_owned(),
        injection: match route.how {
            How::Header(name, format) => Injection::Header { name: name.to_owned(), format: format.to_owned() },
            How::Bearer => Injection::Bearer,
            How::Basic(user) => Injection::Basic { user: user.to_owned() },
        },
        strip: owned(route.strip),
    });
    let denied = preset.denied.iter().filter(|deny| meant(&deny.host)).map(|deny| Endpoint {
        host: name_of(deny.host),
        methods: owned(deny.methods),
        path: deny.path.to_owned(),
    });
    let variables = preset.variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Ok(Expanded { bindings: bindings.collect(), denied: denied.collect(), variables: variables.collect() })
}

/// Refuses a new value of another kind than the record was made for.
pub(super) fn check_kind(record: &Record, value: &[u8]) -> Result<()> {
    let (Some(name), Some(first)) = (&record.preset, record.bindings.first()) else {
        return Ok(());
    };
    let Some(preset) = ALL.iter().find(|preset| preset.name == name).filter(|preset| preset.other_value.is_some())
    else {
        return Ok(());
    };
    let expanded = expand(preset.name, Some(&first.host), first.port, value)?;
    if expanded.bindings == record.bindings {
        return Ok(());
    }
    Err(Error::refused(format!("the new value of `{}` is of another kind than the old one", record.name))
        .because("API keys and OAuth tokens go into different headers")
        .hint(format!("belljar secret remove {0}, then belljar secret add {0} --preset {name}", record.name)))
}

#[cfg(test)]
mod tests {
    use super::super::validity::check_record;
    use super::*;

    fn record(name: &str, host: Option<&str>, value: &[u8]) -> Record {
        let Expanded { bindings, denied, variables } = expand(name, host, 443, value).expect("a preset");
        Record {
            name: name.into(),
            groups: vec!["main".into()],
            preset: Some(name.into()),
            bindings,
            denied,
            variables,
            created: jiff::Timestamp::UNIX_EPOCH,
            rotated: None,
        }
    }

    #[test]
    fn each_entry_of_the_table_is_valid() {
        for preset in ALL {
            for host in [None, Some("git.corp.example")] {
                let record = record(preset.name, host, b"value-value");
                check_record(&record).unwrap_or_else(|error| panic!("{}: {error}", preset.name));
                assert!(!record.denied.is_empty() && !record.variables.is_empty(), "{}", preset.name);
                if let Some(host) = host {
                    assert!(record.bindings.iter().all(|binding| binding.host == host), "{}", preset.name);
                    assert!(record.denied.iter().all(|endpoint| endpoint.host == host), "{}", preset.name);
                }
            }
        }
    }

    #[test]
    fn the_enterprise_list_is_the_public_one_below_its_prefix() {
        let paths = |host| record("github", host, b"value-value").denied.into_iter().map(|endpoint| endpoint.path);
        let enterprise: Vec<String> = paths(Some("git.corp.example")).collect();
        for path in paths(None).filter(|path| !path.starts_with("/login")) {
            // The server has no Copilot, and enterprises have no such list there.
            if path.contains("copilot") || path.starts_with("/enterprises/*/credential") {
                continue;
            }
            assert!(enterprise.contains(&format!("/api/v3{path}")), "{path}");
        }
    }

    #[test]
    fn an_oauth_token_is_not_an_api_key() {
        let key = record("anthropic", None, b"sk-ant-api03-xxxx");
        let token = record("anthropic", None, b"sk-ant-oat01-xxxx");
        assert_eq!(key.variables[0].0, "ANTHROPIC_API_KEY");
        assert_eq!(token.variables[0].0, "CLAUDE_CODE_OAUTH_TOKEN");
        assert_eq!(token.bindings[0].injection, Injection::Bearer);
        assert!(check_kind(&key, b"sk-ant-api03-yyyy").is_ok() && check_kind(&key, b"sk-ant-oat01-yyyy").is_err());
        assert!(check_kind(&token, b"sk-ant-oat01-yyyy").is_ok() && check_kind(&token, b"sk-ant-api03-yyyy").is_err());
    }
}
