//! Docker: a directory for each container, and the runtime's note of its process.

use model::Foreign;
use serde::Deserialize;

use super::place::{Keeper, Place};
use super::process::Claim;
use super::{Found, Query, Roots, plain, plain_id, runtime};

/// `config.v2.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    state: State,
    config: Config,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    running: bool,
    pid: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    image: Option<String>,
}

/// `/etc/docker/daemon.json`, as far as it says where things are.
#[derive(Default, Deserialize)]
struct Daemon {
    #[serde(rename = "data-root")]
    data: Option<String>,
    #[serde(rename = "exec-root")]
    exec: Option<String>,
}

pub(super) fn containers(roots: &Roots, query: Query<'_>) -> Vec<Found> {
    let settings = Place::open(&roots.at("/etc/docker"), Keeper::Trusted).and_then(|it| it.read_json("daemon.json"));
    let Daemon { data, exec } = settings.unwrap_or_default();
    let data = roots.at(data.as_deref().unwrap_or("/var/lib/docker"));
    let exec = roots.at(exec.as_deref().unwrap_or("/run/docker"));
    let runtime = Place::open(&exec.join("runtime-runc/moby"), Keeper::Trusted);
    let Some(data) = Place::open(&data, Keeper::Trusted) else { return Vec::new() };
    // A daemon with user namespaces keeps all of its state in a directory named after root in them.
    let remapped = data.entries().into_iter().filter(|it| is_user_and_group(it)).filter_map(|it| data.inside(it));
    let lists = data.inside("containers").into_iter().chain(remapped.filter_map(|it| it.inside("containers")));
    lists.flat_map(|list| of(&list, runtime.as_ref(), query)).collect()
}

/// Whether a directory is named `UID.GID`.
fn is_user_and_group(name: &str) -> bool {
    let number = |it: &str| it.parse::<u32>().is_ok();
    name.split_once('.').is_some_and(|(uid, gid)| number(uid) && number(gid))
}

fn of(list: &Place, runtime: Option<&Place>, query: Query<'_>) -> Vec<Found> {
    let read = |directory: String| {
        let (found, pid) = parse(&list.read(format!("{directory}/config.v2.json"))?)?;
        query.wants(None, &found.id, &found.names).then(|| {
            let noted = runtime.and_then(|it| runtime::runc(it, &found.id));
            // The daemon's own note goes first: the runtime's may be left over from the run before.
            let process = pid.and_then(|pid| {
                let began = noted.filter(|it| it.pid == pid).and_then(|it| it.began);
                Claim { pid, began, id: &found.id, keeper: list.keeper() }.confirm()
            });
            Found { process, ..found }
        })
    };
    list.entries().into_iter().filter_map(read).collect()
}

/// The container and, if it is said to run, the number of its process.
fn parse(bytes: &[u8]) -> Option<(Found, Option<u32>)> {
    let Container { id, name, state, config } = serde_json::from_slice(bytes).ok()?;
    let found = Found {
        engine: Foreign::Docker,
        scope: None,
        id: plain_id(&id)?,
        names: plain(name.trim_start_matches('/')).into_iter().collect(),
        process: None,
        image: config.image.and_then(|it| plain(&it)),
    };
    Some((found, (state.running && state.pid != 0).then_some(state.pid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_read() {
        let text = r#"{"State":{"Running":true,"Paused":false,"Pid":9947},"ID":"3d2a18b0","Path":"sleep",
            "Config":{"Image":"bb","User":""},"Name":"/dweb"}"#;
        let (found, pid) = parse(text.as_bytes()).unwrap();
        assert_eq!((found.to_string().as_str(), found.image.as_deref(), pid), ("docker:dweb", Some("bb"), Some(9947)));
        let stopped = text.replace("true", "false");
        assert_eq!(parse(stopped.as_bytes()).unwrap().1, None);
        assert!(parse(text.replace("3d2a18b0", "../x").as_bytes()).is_none());
        assert!(parse(b"{\"ID\":\"a\"").is_none());
    }
}
