//! What the device trees of all boards begin with: what the machine is, what its kernel is told, where its memory is.

use vm_fdt::{FdtWriter, FdtWriterNode};

use crate::error::Result;
use crate::machine::{self, Start};

/// A tree whose root is that of a machine by this name.
pub(crate) fn begin(model: &str) -> Result<(FdtWriter, FdtWriterNode)> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_string("compatible", model)?;
    tree.property_string("model", model)?;
    Ok((tree, root))
}

/// What the kernel is told, with its console's path in the tree; and memory, from `base` on.
pub(crate) fn chosen(tree: &mut FdtWriter, start: &Start<'_>, initrd: u64, console: &str, base: u64) -> Result<()> {
    let chosen = tree.begin_node("chosen")?;
    tree.property_string("bootargs", start.command_line)?;
    tree.property("rng-seed", &machine::seed(start.outside))?;
    tree.property_string("stdout-path", console)?;
    if !start.initrd.is_empty() {
        tree.property_u64("linux,initrd-start", initrd)?;
        tree.property_u64("linux,initrd-end", initrd + start.initrd.len() as u64)?;
    }
    tree.end_node(chosen)?;

    let memory = tree.begin_node(&format!("memory@{base:x}"))?;
    tree.property_string("device_type", "memory")?;
    tree.property_array_u64("reg", &[base, start.memory])?;
    tree.end_node(memory)?;
    Ok(())
}
