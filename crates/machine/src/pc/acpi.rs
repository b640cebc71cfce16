//! What the machine is, as ACPI says it ("Advanced Configuration and Power Interface", 6.4): the reduced kind, which has no
//! registers of its own but for switching off and starting again.

use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

use super::{CONSOLE_LINE, CONSOLE_PORT, OFF_KIND, RESET, RESET_VALUE, SLEEP, SLEEP_STATUS, SLOTS};

const MAKER: [u8; 6] = *b"SKEP  ";
const NAME: [u8; 8] = *b"MACHINE ";
/// There is neither a controller of keyboards nor a clock of the old kind, and no screen.
const HAS_NO_CLOCK: u16 = 1 << 5;
const HAS_NO_SCREEN: u16 = 1 << 2;

/// Bytes of a table.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl AmlSink for Bytes {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

fn bytes(of: &dyn Aml) -> Vec<u8> {
    let mut bytes = Bytes::default();
    of.to_aml_bytes(&mut bytes);
    bytes.0
}

/// All tables as they lie at `at`, the first of which leads to the others.
pub(super) fn tables(at: u64, slots: usize, processors: usize) -> Vec<u8> {
    let root = Rsdp::len() as u64;
    let mut all = Vec::new();
    let mut put = |table: &[u8]| {
        let offset = (root + all.len() as u64).next_multiple_of(16);
        all.resize((offset - root) as usize, 0);
        all.extend_from_slice(table);
        at + offset
    };
    let devices = put(Sdt::as_slice(&described(slots)));
    let mut fixed = FADTBuilder::new(MAKER, NAME, 1)
        .dsdt_64(devices)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fixed.iapc_boot_arch = (HAS_NO_CLOCK | HAS_NO_SCREEN).into();
    (fixed.reset_reg, fixed.reset_value) = (port(RESET), RESET_VALUE);
    (fixed.sleep_control_reg, fixed.sleep_status_reg) = (port(SLEEP), port(SLEEP_STATUS));
    let fixed = put(&bytes(&fixed.finalize()));
    let mut controllers = MADT::new(MAKER, NAME, 1, LocalInterruptController::Address(vm::OWN_AT));
    for number in 0..processors as u8 {
        controllers.add_structure(ProcessorLocalApic::new(number, number, EnabledStatus::Enabled));
    }
    controllers.add_structure(IoApic::new(0, vm::LINES_AT, 0));
    let controllers = put(&bytes(&controllers));
    let mut list = XSDT::new(MAKER, NAME, 1);
    list.add_entry(fixed);
    list.add_entry(controllers);
    let list = put(&bytes(&list));
    [bytes(&Rsdp::new(MAKER, list)), all].concat()
}

/// A register of a byte.
fn port(number: u16) -> GAS {
    GAS {
        address_space_id: AddressSpace::SystemIo,
        register_bit_width: 8,
        register_bit_offset: 0,
        access_size: AccessSize::ByteAccess,
        address: u64::from(number).into(),
    }
}

/// The devices: the serial port, and what there is of virtio.
fn described(slots: usize) -> Sdt {
    let mut table = Sdt::new(*b"DSDT", 36, 2, MAKER, NAME, 1);
    let ports = IO::new(CONSOLE_PORT, CONSOLE_PORT, 1, 8);
    let (line, kind, number) = (Interrupt::new(true, true, false, false, CONSOLE_LINE), EISAName::new("PNP0501"), 0u8);
    let resources = ResourceTemplate::new(vec![&ports, &line]);
    let [kind, number] = [Name::new("_HID".into(), &kind), Name::new("_UID".into(), &number)];
    let resources = Name::new("_CRS".into(), &resources);
    let console = Device::new("COM1".into(), vec![&kind, &number, &resources]);
    table.append_slice(&bytes(&Scope::new("\\_SB_".into(), vec![&console])));
    for slot in 0..slots {
        table.append_slice(&bytes(&Slot(slot)));
    }
    let (kind, nothing) = (OFF_KIND, 0u8);
    let depth = Package::new(vec![&kind, &nothing]);
    table.append_slice(&bytes(&Name::new("_S5_".into(), &depth)));
    table
}

/// A device of virtio.
struct Slot(usize);

impl Aml for Slot {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let place = SLOTS.slot(self.0);
        let memory = Memory32Fixed::new(true, place.base as u32, place.size as u32);
        let line = Interrupt::new(true, false, false, false, place.interrupt);
        let resources = ResourceTemplate::new(vec![&memory, &line]);
        let (kind, number, yes) = ("LNRO0005", self.0 as u8, 1u8);
        let [kind, number] = [Name::new("_HID".into(), &kind), Name::new("_UID".into(), &number)];
        // What it writes processors see.
        let (coherent, resources) = (Name::new("_CCA".into(), &yes), Name::new("_CRS".into(), &resources));
        let path = Path::new(&format!("V{:03}", self.0));
        let device = Device::new(path, vec![&kind, &number, &coherent, &resources]);
        Scope::new("\\_SB_".into(), vec![&device]).to_aml_bytes(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table from a place in memory that begins at `at`; its sum is zero.
    fn table(all: &[u8], at: u64, from: u64) -> &[u8] {
        let rest = &all[(from - at) as usize..];
        let table = &rest[..u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize];
        assert_eq!(table.iter().fold(0u8, |sum, it| sum.wrapping_add(*it)), 0);
        table
    }

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn tables_lead_to_each_other() {
        const AT: u64 = 0xe_0000;
        let all = tables(AT, 5, 2);
        assert_eq!(&all[..8], b"RSD PTR ");
        let list = table(&all, AT, word(&all, 24));
        assert_eq!((&list[..4], list.len()), (&b"XSDT"[..], 36 + 16));
        let fixed = table(&all, AT, word(list, 36));
        let controllers = table(&all, AT, word(list, 44));
        let devices = table(&all, AT, word(fixed, 140));
        assert_eq!([&fixed[..4], &controllers[..4], &devices[..4]], [b"FACP", b"APIC", b"DSDT"]);
        let found = |what: &[u8]| devices.windows(what.len()).filter(|it| *it == what).count();
        assert_eq!((found(b"LNRO0005"), found(b"V004"), found(b"V005"), found(b"_S5_")), (5, 1, 0, 1));
    }
}
