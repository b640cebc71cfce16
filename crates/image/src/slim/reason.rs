//! Why a path is kept.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::TreePath;

macro_rules! reasons {
    ($(#[$meta:meta])* plain { $($plain:ident = $text:literal,)+ } of { $($of:ident = $of_text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(tag = "rule", content = "of", rename_all = "kebab-case")]
        #[expect(missing_docs, reason = "each is said by its own text")]
        pub enum Reason { $($plain,)+ $($of(TreePath),)+ Asked(String), Missed(String) }

        impl Reason {
            /// The path that this one is kept for.
            pub fn origin(&self) -> Option<&TreePath> {
                match self {
                    $(Self::$of(path) => Some(path),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for Reason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$plain => f.write_str($text),)+
                    $(Self::$of(path) => write!(f, concat!($of_text, " {}"), path),)+
                    Self::Asked(glob) => write!(f, "--keep {glob} asks for it"),
                    Self::Missed(step) => write!(f, "it was missed on the slim image ({step})"),
                }
            }
        }
    };
}

reasons! {
    /// Why a path is kept. The later ones name the path for whose sake.
    plain {
        Executed = "it was executed",
        Opened = "it was opened",
        LookedUp = "it was looked up",
        Listed = "its directory holds configuration or plugins and was listed",
        Skeleton = "a directory that programs write below",
        Data = "the application's own data, which no package of code holds",
        Identity = "who and where the cell is: users, names, the loader's settings",
        Record = "tells scanners which packages are here",
    }
    of {
        Way = "on the way to",
        Library = "a library of",
        Interpreter = "runs",
        Named = "named inside",
        NameService = "looks names up for",
        Certificates = "settings and certificates of",
        Converters = "character sets, as used by",
        Locale = "the locale, as used by",
        Zones = "time zones, as used by",
        Module = "of the same package as",
        Imported = "imported by",
        Pam = "authenticates for",
        HardLink = "the same file as",
    }
}
