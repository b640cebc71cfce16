//! Dependency fields: `a (>= 1) | b:any, c` and what it takes to satisfy them.
//!
//! Debian Policy 7.1. Architecture restrictions (`[amd64]`) and build profiles occur in source packages only; they are
//! skipped over. An alternative that cannot be read is dropped, and a relation left with none can never be satisfied,
//! which the solver reports by the relation's own text.

use std::cmp::Ordering;

use super::version::compare;

/// One relation: any of its alternatives satisfies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relation<'a> {
    /// As written.
    pub(crate) text: &'a str,
    /// In order of preference.
    pub(crate) alternatives: Vec<Alternative<'a>>,
}

/// A package by name, and what its version must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alternative<'a> {
    /// The package, real or virtual.
    pub(crate) name: &'a str,
    /// `any`, `native` or an architecture, after a colon.
    pub(crate) qualifier: Option<&'a str>,
    /// What its version must be.
    pub(crate) constraint: Option<(Operator, &'a str)>,
}

/// How a version is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    /// `<<`
    Earlier,
    /// `<=`, and the old `<`
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=`, and the old `>`
    LaterOrEqual,
    /// `>>`
    Later,
}

impl Alternative<'_> {
    /// Whether a package of that version satisfies the constraint.
    pub(crate) fn accepts(&self, version: &str) -> bool {
        self.constraint.is_none_or(|(operator, wanted)| {
            let order = compare(version, wanted);
            match operator {
                Operator::Earlier => order == Ordering::Less,
                Operator::EarlierOrEqual => order != Ordering::Greater,
                Operator::Equal => order == Ordering::Equal,
                Operator::LaterOrEqual => order != Ordering::Less,
                Operator::Later => order == Ordering::Greater,
            }
        })
    }
}

/// The relations of one dependency field.
pub(crate) fn relations(field: &str) -> impl Iterator<Item = Relation<'_>> {
    field
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(|text| Relation { text, alternatives: text.split('|').filter_map(alternative).collect() })
}

fn alternative(text: &str) -> Option<Alternative<'_>> {
    let text = text.split(['[', '<']).next().filter(|_| !text.contains('(')).unwrap_or(text).trim();
    let (name, rest) = text.split_at(text.find(|c: char| c.is_whitespace() || c == '(').unwrap_or(text.len()));
    let (name, qualifier) = match name.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (name, None),
    };
    let constraint = match rest.split_once('(') {
        Some((_, inside)) => Some(constraint(inside.split_once(')')?.0.trim())?),
        None => None,
    };
    (!name.is_empty()).then_some(Alternative { name, qualifier, constraint })
}

fn constraint(text: &str) -> Option<(Operator, &str)> {
    let (operator, version) = text.split_at(text.find(|c| !matches!(c, '<' | '>' | '='))?);
    let operator = match operator {
        "<<" => Operator::Earlier,
        "<=" | "<" => Operator::EarlierOrEqual,
        "=" => Operator::Equal,
        ">=" | ">" => Operator::LaterOrEqual,
        ">>" => Operator::Later,
        _ => return None,
    };
    Some((operator, version.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependency_fields_are_read() {
        let field = "libc6 (>= 2.34), debconf (>= 0.5) | debconf-2.0,python3:any,\n x(<<2), y [amd64] <!nocheck>, ";
        let read: Vec<_> = relations(field).collect();
        assert_eq!(read.len(), 5);
        let flat: Vec<_> =
            read.iter().flat_map(|r| &r.alternatives).map(|a| (a.name, a.qualifier, a.constraint)).collect();
        assert_eq!(
            flat,
            [
                ("libc6", None, Some((Operator::LaterOrEqual, "2.34"))),
                ("debconf", None, Some((Operator::LaterOrEqual, "0.5"))),
                ("debconf-2.0", None, None),
                ("python3", Some("any"), None),
                ("x", None, Some((Operator::Earlier, "2"))),
                ("y", None, None),
            ]
        );
    }

    #[test]
    fn constraints_are_applied() {
        let check = |text: &str, version: &str, accepted: bool| {
            let relation = relations(text).next().unwrap();
            assert_eq!(relation.alternatives[0].accepts(version), accepted, "{text} {version}");
        };
        check("a", "1", true);
        check("a (>= 1)", "1", true);
        check("a (>> 1)", "1", false);
        check("a (<< 1)", "1~rc1", true);
        check("a (= 1:2-3)", "1:2-3", true);
        check("a (<= 2)", "2.1", false);
    }

    #[test]
    fn what_cannot_be_read_is_dropped() {
        for text in ["a (", "a (x)", "a (>=", "(>= 1)", "|", ":any"] {
            assert!(relations(text).all(|relation| relation.alternatives.is_empty()), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "[a-c:|,()<>=\\[\\] 0-9é]{0,40}") {
            for relation in relations(&text) {
                for alternative in relation.alternatives {
                    let _ = alternative.accepts("1.0-1");
                }
            }
        }
    }
}
