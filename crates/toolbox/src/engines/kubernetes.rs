//! The pods of Kubernetes, by what its runtime interface notes with containerd's bundles.

use std::collections::BTreeMap;

use model::Foreign;

use super::containerd::{State, image};
use super::{Found, Query, Roots, plain};

/// containerd's namespace for them.
const NAMESPACE: &str = "k8s.io";

pub(super) fn containers(roots: &Roots, query: Query<'_>) -> Vec<Found> {
    let state = State::open(roots);
    let read = |(space, id): (String, String)| {
        let found = (space == NAMESPACE).then(|| parse(&id, &state.annotations(&space, &id)?)).flatten()?;
        query
            .wants(found.scope.as_deref(), &id, &found.names)
            .then(|| Found { process: state.process(&space, &id), ..found })
    };
    state.list().into_iter().filter_map(read).collect()
}

/// A container of a pod, and nothing for what only holds a pod's network.
fn parse(id: &str, annotations: &BTreeMap<String, String>) -> Option<Found> {
    let note = |name: &str| annotations.get(&format!("io.kubernetes.cri.{name}")).and_then(|it| plain(it));
    if note("container-type")? != "container" {
        return None;
    }
    let pod = note("sandbox-name")?;
    let container = note("container-name")?;
    Some(Found {
        engine: Foreign::Kubernetes,
        scope: note("sandbox-namespace"),
        id: id.to_owned(),
        // The pod stands for its container when it has but one.
        names: vec![format!("{pod}/{container}"), pod],
        process: None,
        image: image(annotations),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_of_a_pod_is_named_by_both() {
        let notes = |kind: &str| -> BTreeMap<String, String> {
            let notes = [
                ("container-type", kind),
                ("sandbox-name", "web-0"),
                ("sandbox-namespace", "shop"),
                ("container-name", "nginx"),
                ("image-name", "example/nginx:1"),
            ];
            notes.iter().map(|(name, value)| (format!("io.kubernetes.cri.{name}"), (*value).to_owned())).collect()
        };
        let found = parse("abc", &notes("container")).unwrap();
        assert_eq!(found.to_string(), "k8s:shop/web-0/nginx");
        assert_eq!(found.image.as_deref(), Some("example/nginx:1"));
        for wanted in ["web-0", "web-0/nginx", "shop/web-0", "shop/web-0/nginx", "abc", "ab"] {
            assert!(Query::Named(wanted).wants(found.scope.as_deref(), &found.id, &found.names), "{wanted}");
        }
        assert!(!Query::Named("other/web-0").wants(found.scope.as_deref(), &found.id, &found.names));
        assert!(parse("abc", &notes("sandbox")).is_none());
        assert!(parse("abc", &BTreeMap::new()).is_none());
    }
}
