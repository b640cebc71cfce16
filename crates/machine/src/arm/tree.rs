//! The device tree: what a kernel is told of the machine.

use vm_fdt::{FdtWriter, FdtWriterNode};

use super::{CLOCK, CONSOLE, DISTRIBUTOR, MEMORY, REDISTRIBUTOR, SLOTS};
use crate::bus::Place;
use crate::error::Result;
use crate::gic;
use crate::machine::{Outside, Start};
use crate::tree;

const CONTROLLER: u32 = 1;
const PULSE: u32 = 2;
/// Interrupts of one processor, and of all; raised by a level.
const PRIVATE: u32 = 1;
const SHARED: u32 = 0;
const LEVEL: u32 = 4;

/// The tree, as a kernel reads it.
pub(super) fn describe(start: &Start<'_>, slots: usize, initrd: u64) -> Result<Vec<u8>> {
    let (mut tree, root) = tree::begin("skep,arm")?;
    tree.property_u32("interrupt-parent", CONTROLLER)?;
    tree::chosen(&mut tree, start, initrd, &format!("/pl011@{:x}", CONSOLE.base), MEMORY)?;

    let processors = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    for number in 0..start.processors {
        let processor = tree.begin_node(&format!("cpu@{number:x}"))?;
        tree.property_string("device_type", "cpu")?;
        tree.property_string("compatible", "arm,armv8")?;
        tree.property_u32("reg", number as u32)?;
        tree.property_string("enable-method", "psci")?;
        tree.end_node(processor)?;
    }
    tree.end_node(processors)?;

    let firmware = tree.begin_node("psci")?;
    tree.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    tree.property_string("method", "hvc")?;
    tree.end_node(firmware)?;

    // Secure, physical, virtual and hypervisor's.
    let timer = tree.begin_node("timer")?;
    tree.property_string("compatible", "arm,armv8-timer")?;
    tree.property_null("always-on")?;
    let lines: Vec<u32> = [13, 14, 11, 10].iter().flat_map(|line| [PRIVATE, *line, LEVEL]).collect();
    tree.property_array_u32("interrupts", &lines)?;
    tree.end_node(timer)?;

    let controller = tree.begin_node(&format!("intc@{DISTRIBUTOR:x}"))?;
    tree.property_string("compatible", "arm,gic-v3")?;
    tree.property_u32("#interrupt-cells", 3)?;
    tree.property_null("interrupt-controller")?;
    let redistributors = start.processors as u64 * gic::REDISTRIBUTOR_SIZE;
    let registers = [DISTRIBUTOR, gic::DISTRIBUTOR_SIZE, REDISTRIBUTOR, redistributors];
    tree.property_array_u64("reg", &registers)?;
    tree.property_phandle(CONTROLLER)?;
    tree.end_node(controller)?;

    let clock = tree.begin_node("apb-pclk")?;
    tree.property_string("compatible", "fixed-clock")?;
    tree.property_u32("#clock-cells", 0)?;
    tree.property_u32("clock-frequency", 24_000_000)?;
    tree.property_string("clock-output-names", "clk24mhz")?;
    tree.property_phandle(PULSE)?;
    tree.end_node(clock)?;

    let serial = device(&mut tree, "pl011", &["arm,pl011", "arm,primecell"], CONSOLE)?;
    tree.property_array_u32("clocks", &[PULSE, PULSE])?;
    tree.property_string_list("clock-names", vec!["uartclk".into(), "apb_pclk".into()])?;
    tree.end_node(serial)?;
    if start.outside == Outside::Host {
        let clock = device(&mut tree, "pl031", &["arm,pl031", "arm,primecell"], CLOCK)?;
        tree.property_u32("clocks", PULSE)?;
        tree.property_string("clock-names", "apb_pclk")?;
        tree.end_node(clock)?;
    }
    for number in 0..slots {
        let slot = device(&mut tree, "virtio_mmio", &["virtio,mmio"], SLOTS.slot(number))?;
        tree.property_null("dma-coherent")?;
        tree.end_node(slot)?;
    }

    tree.end_node(root)?;
    Ok(tree.finish()?)
}

/// Begins a device's node.
fn device(tree: &mut FdtWriter, name: &str, compatible: &[&str], place: Place) -> Result<FdtWriterNode> {
    let node = tree.begin_node(&format!("{name}@{:x}", place.base))?;
    tree.property_string_list("compatible", compatible.iter().map(|it| (*it).to_owned()).collect())?;
    tree.property_array_u64("reg", &[place.base, place.size])?;
    tree.property_array_u32("interrupts", &[SHARED, place.interrupt - 32, LEVEL])?;
    Ok(node)
}
