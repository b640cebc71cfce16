//! The way that a path takes through a tree.

use store::{Kind, Tree};

use super::TreePath;

/// As many symbolic links as Linux follows on one path.
const MAX_LINKS: usize = 40;

/// The directories and symbolic links that a path passes, by their real paths and in order, and the real path of what it
/// leads to, if that exists. What is passed before the way ends is given in any case.
pub fn passage(tree: &Tree, path: &[u8]) -> (Vec<TreePath>, Option<TreePath>) {
    let mut todo: Vec<Vec<u8>> = path.split(|it| *it == b'/').rev().map(<[u8]>::to_vec).collect();
    let (mut done, mut passed): (Vec<Vec<u8>>, Vec<TreePath>) = (Vec::new(), Vec::new());
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                done.pop();
                continue;
            }
            _ => {}
        }
        let here = if done.is_empty() { name.clone() } else { [done.join(&b'/').as_slice(), b"/", &name].concat() };
        match tree.get(&here).map(|it| &it.node.kind) {
            None => return (passed, None),
            Some(Kind::Symlink(target)) => {
                links += 1;
                if links > MAX_LINKS {
                    return (passed, None);
                }
                passed.push(TreePath::new(&here));
                if target.starts_with(b"/") {
                    done.clear();
                }
                todo.extend(target.split(|it| *it == b'/').rev().map(<[u8]>::to_vec));
            }
            Some(Kind::Directory) => {
                passed.push(TreePath::new(&here));
                done.push(name);
            }
            Some(_) if todo.iter().all(|it| it.is_empty() || it == b".") => done.push(name),
            Some(_) => return (passed, None),
        }
    }
    (passed, Some(TreePath::new(&done.join(&b'/'))))
}

#[cfg(test)]
mod tests {
    use store::{Content, Metadata, Node};

    use super::*;

    #[test]
    fn links_and_directories_are_passed_in_order() {
        let mut tree = Tree::default();
        for dir in ["usr", "usr/bin", "etc"] {
            tree.insert(dir, Node::directory(Metadata::new(0o755))).unwrap();
        }
        for (path, target) in [("bin", "usr/bin"), ("etc/sh", "/bin/../bin/sh"), ("loop", "loop")] {
            tree.insert(path, Node::symlink(Metadata::new(0o777), target.as_bytes())).unwrap();
        }
        tree.insert("usr/bin/sh", Node::file(Metadata::new(0o755), Content::EMPTY)).unwrap();
        let check = |path: &str, passed: &[&str], real: Option<&str>| {
            let (way, end) = passage(&tree, path.as_bytes());
            let way: Vec<_> = way.iter().map(ToString::to_string).collect();
            assert_eq!(
                (way, end.map(|it| it.to_string())),
                (passed.iter().map(|it| (*it).to_owned()).collect(), real.map(str::to_owned)),
                "{path}"
            );
        };
        let bin = ["/bin", "/usr", "/usr/bin"];
        check("/bin/sh", &bin, Some("/usr/bin/sh"));
        // The link's `..` leads to what holds the directory that the link `bin` leads to: `/usr`.
        check("etc/sh", &["/etc", "/etc/sh", "/bin", "/usr", "/usr/bin", "/usr/bin"], Some("/usr/bin/sh"));
        check("loop", &["/loop"; 40], None);
        check("bin/none", &bin, None);
        check("usr/bin/sh/x", &["/usr", "/usr/bin"], None);
    }
}
