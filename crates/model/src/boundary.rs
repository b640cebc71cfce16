//! What separates a cell from the rest, what executes its instructions, and what can be asked of it.

macro_rules! named_enum {
    ($(#[$meta:meta])* $name:ident, $what:literal { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// Every one, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word users type and see.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::ParseError;
            fn from_str(text: &str) -> Result<Self, $crate::ParseError> {
                Self::ALL.iter().copied().find(|it| it.as_str() == text).ok_or_else(|| {
                    let names: Vec<_> = Self::ALL.iter().map(|it| it.as_str()).collect();
                    $crate::ParseError::new($what, text, format!("one of {}", names.join(", ")))
                })
            }
        }

        $crate::parse::serde_as_text!($name);
    };
}
pub(crate) use named_enum;

named_enum! {
    /// What separates a cell from the rest of the machine: the value of `--as`.
    Boundary, "boundary" {
        /// Namespaces and control groups of the host's own kernel.
        Container = "container",
        /// A library operating system alone in a small sealed virtual machine.
        Unikernel = "unikernel",
        /// A whole virtual machine with its own kernel.
        Machine = "machine",
    }
}

named_enum! {
    /// What executes a cell's instructions. Chosen by probing; shown, seldom typed.
    Engine, "engine" {
        /// The host's processor under the host's kernel.
        Native = "native",
        /// A virtual processor of `/dev/kvm`.
        Kvm = "kvm",
        /// A seccomp-confined host process standing in for a virtual machine.
        Process = "process",
        /// The dynamic binary translator.
        Dbt = "dbt",
    }
}

named_enum! {
    /// What can be asked of a cell. A boundary lists those it can do; the others are refused by name.
    Verb, "verb" {
        /// Run a further program beside the cell's own.
        Exec = "exec",
        /// Read what the cell printed.
        Logs = "logs",
        /// Copy files in or out.
        Copy = "cp",
        /// Connect to the cell's own standard streams.
        Attach = "attach",
        /// Stop its processors without ending it, and let them go on.
        Pause = "pause",
        /// Change its limits while it runs.
        Set = "set",
        /// Measure what it uses.
        Stats = "stats",
        /// Attach a toolbox to it.
        Debug = "debug",
        /// Make a second running cell from it.
        Fork = "fork",
        /// List and replace the libraries of its running programs.
        Libraries = "lib",
        /// Keep its whole state in the pool.
        Snapshot = "snapshot",
        /// Write the memory and registers of its program to a file, for a debugger.
        Dump = "dump",
    }
}
