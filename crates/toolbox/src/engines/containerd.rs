//! containerd: a bundle for each container that runs, by namespace. Those that do not run are in a database of its own,
//! and are not seen here.

use std::collections::BTreeMap;

use model::Foreign;
use serde::Deserialize;

use super::place::{Keeper, Place};
use super::process::Claim;
use super::{Found, Process, Query, Roots, plain, plain_id, runtime};

/// The bundles of all namespaces, and the state of the runtime below.
pub(super) struct State {
    bundles: Option<Place>,
    runtime: Option<Place>,
}

/// The runtime's configuration in a bundle.
#[derive(Deserialize)]
struct Bundle {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl State {
    pub(super) fn open(roots: &Roots) -> Self {
        let open = |path: &str| Place::open(&roots.at(path), Keeper::Trusted);
        Self { bundles: open("/run/containerd/io.containerd.runtime.v2.task"), runtime: open("/run/containerd/runc") }
    }

    /// Every namespace and the identities of its containers.
    pub(super) fn list(&self) -> Vec<(String, String)> {
        let Some(bundles) = &self.bundles else { return Vec::new() };
        let mut list = Vec::new();
        for space in bundles.entries().iter().filter_map(|it| plain_id(it)) {
            let inside = bundles.inside(&space).map(|it| it.entries()).unwrap_or_default();
            list.extend(inside.iter().filter_map(|it| plain_id(it)).map(|id| (space.clone(), id)));
        }
        list
    }

    pub(super) fn annotations(&self, space: &str, id: &str) -> Option<BTreeMap<String, String>> {
        let bundle: Bundle = self.bundles.as_ref()?.read_json(format!("{space}/{id}/config.json"))?;
        Some(bundle.annotations)
    }

    pub(super) fn process(&self, space: &str, id: &str) -> Option<Process> {
        let bundles = self.bundles.as_ref()?;
        let pid = bundles.read_number(format!("{space}/{id}/init.pid"))?;
        let noted = self.runtime.as_ref().and_then(|it| runtime::runc(&it.inside(space)?, id));
        if noted.is_some_and(|it| !it.is_started) {
            return None;
        }
        let began = noted.filter(|it| it.pid == pid).and_then(|it| it.began);
        Claim { pid, began, id, keeper: bundles.keeper() }.confirm()
    }
}

/// The namespace of whoever names none.
const DEFAULT: &str = "default";

pub(super) fn containers(roots: &Roots, query: Query<'_>) -> Vec<Found> {
    let state = State::open(roots);
    let read = |(space, id): (String, String)| {
        query.wants(Some(&space), &id, &[]).then(|| Found {
            engine: Foreign::Containerd,
            process: state.process(&space, &id),
            image: state.annotations(&space, &id).and_then(|it| image(&it)),
            scope: Some(space),
            id,
            names: Vec::new(),
        })
    };
    let mut found: Vec<Found> = state.list().into_iter().filter_map(read).collect();
    // Without a namespace, the default one's goes first.
    if let Query::Named(wanted) = query {
        let in_default = |it: &Found| it.scope.as_deref() == Some(DEFAULT) && it.id == wanted;
        if found.iter().any(in_default) {
            found.retain(in_default);
        }
    }
    found
}

/// What Kubernetes noted of the image. Nobody else does.
pub(super) fn image(annotations: &BTreeMap<String, String>) -> Option<String> {
    annotations.get("io.kubernetes.cri.image-name").and_then(|it| plain(it))
}
