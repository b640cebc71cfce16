//! The device tree: what a kernel is told of the machine.

use vm_fdt::{FdtWriter, FdtWriterNode};

use super::{CLOCK, CONSOLE, FREQUENCY, MEMORY, PLIC, SLOTS};
use crate::bus::Place;
use crate::error::Result;
use crate::machine::{Outside, Start};
use crate::{plic, tree};

/// Numbers by which nodes name each other: the board's controller, and behind it each processor's own.
const CONTROLLER: u32 = 1;
const FIRST_PROCESSOR: u32 = 2;
/// The supervisor's external interrupt.
const EXTERNAL: u32 = 9;

/// The tree, as a kernel reads it.
pub(super) fn describe(start: &Start<'_>, slots: usize, initrd: u64) -> Result<Vec<u8>> {
    let (mut tree, root) = tree::begin("skep,riscv")?;
    tree::chosen(&mut tree, start, initrd, &format!("/soc/serial@{:x}", CONSOLE.base), MEMORY)?;

    processors(&mut tree, start.processors)?;

    let soc = tree.begin_node("soc")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_string("compatible", "simple-bus")?;
    tree.property_null("ranges")?;

    let controller = tree.begin_node(&format!("plic@{PLIC:x}"))?;
    tree.property_string("compatible", "sifive,plic-1.0.0")?;
    tree.property_array_u64("reg", &[PLIC, plic::SIZE])?;
    tree.property_u32("#interrupt-cells", 1)?;
    tree.property_u32("#address-cells", 0)?;
    tree.property_null("interrupt-controller")?;
    // A context for each processor.
    let contexts = (0..start.processors as u32).flat_map(|number| [FIRST_PROCESSOR + number, EXTERNAL]);
    tree.property_array_u32("interrupts-extended", &contexts.collect::<Vec<_>>())?;
    tree.property_u32("riscv,ndev", plic::SOURCES - 1)?;
    tree.property_phandle(CONTROLLER)?;
    tree.end_node(controller)?;

    let serial = device(&mut tree, "serial", "ns16550a", CONSOLE)?;
    tree.property_u32("clock-frequency", 1_843_200)?;
    tree.end_node(serial)?;
    if start.outside == Outside::Host {
        let clock = device(&mut tree, "rtc", "google,goldfish-rtc", CLOCK)?;
        tree.end_node(clock)?;
    }
    for number in 0..slots {
        let slot = device(&mut tree, "virtio_mmio", "virtio,mmio", SLOTS.slot(number))?;
        tree.end_node(slot)?;
    }

    tree.end_node(soc)?;
    tree.end_node(root)?;
    Ok(tree.finish()?)
}

/// Begins a device's node.
fn device(tree: &mut FdtWriter, name: &str, compatible: &str, place: Place) -> Result<FdtWriterNode> {
    let node = tree.begin_node(&format!("{name}@{:x}", place.base))?;
    tree.property_string("compatible", compatible)?;
    tree.property_array_u64("reg", &[place.base, place.size])?;
    tree.property_u32("interrupt-parent", CONTROLLER)?;
    tree.property_u32("interrupts", place.interrupt)?;
    Ok(node)
}

fn processors(tree: &mut FdtWriter, count: usize) -> Result<()> {
    let processors = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    tree.property_u32("timebase-frequency", FREQUENCY as u32)?;
    (0..count as u32).try_for_each(|number| processor(tree, number))?;
    tree.end_node(processors)?;
    Ok(())
}

fn processor(tree: &mut FdtWriter, number: u32) -> Result<()> {
    let processor = tree.begin_node(&format!("cpu@{number:x}"))?;
    tree.property_string("device_type", "cpu")?;
    tree.property_u32("reg", number)?;
    tree.property_string("status", "okay")?;
    tree.property_string("compatible", "riscv")?;
    tree.property_string("mmu-type", "riscv,sv39")?;
    tree.property_string("riscv,isa", "rv64imafdc_zicsr_zifencei_sstc")?;
    tree.property_string("riscv,isa-base", "rv64i")?;
    let extensions = ["i", "m", "a", "f", "d", "c", "zicntr", "zicsr", "zifencei", "sstc"].map(String::from).to_vec();
    tree.property_string_list("riscv,isa-extensions", extensions)?;
    let interrupts = tree.begin_node("interrupt-controller")?;
    tree.property_u32("#interrupt-cells", 1)?;
    tree.property_u32("#address-cells", 0)?;
    tree.property_null("interrupt-controller")?;
    tree.property_string("compatible", "riscv,cpu-intc")?;
    tree.property_phandle(FIRST_PROCESSOR + number)?;
    tree.end_node(interrupts)?;
    tree.end_node(processor)?;
    Ok(())
}
