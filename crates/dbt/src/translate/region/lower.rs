//! From a region's blocks to a function of Cranelift's.
//!
//! Every value has 64 bits, with zeros above its width. A register of the guest that a block of the region reads is a
//! variable: it is loaded where the region is entered, and a block's writes take effect at its end. Which of them may not be in
//! the state where somebody looks is what the block has written, and what blocks before it may have. What no block reads of
//! another is written to the state at each block's end: as a variable it would be carried through every loop for nothing.

mod accesses;
mod flags;
mod operations;
mod windows;

use std::collections::BTreeSet;
use std::rc::Rc;

use cranelift_codegen::ir::{self, InstBuilder as _, MemFlagsData, types};
use cranelift_codegen::isa::{CallConv, OwnedTargetIsa, TargetFrontendConfig};
use cranelift_codegen::{Context, control::ControlPlane};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use rustc_hash::FxHashMap;

use self::windows::Windows;
use super::super::generate::{Call, Compiled, Site, WAY_BYTES, enclose};
use super::super::ir::{Block, Dirty, Exit, Ir, StateId, Val, Value};
use super::Way;
use super::form::Region;
use crate::state::head;

pub(super) use self::operations::is_known;

/// What a region is compiled with.
pub(super) struct Tools {
    isa: OwnedTargetIsa,
    context: Context,
    frontend: FunctionBuilderContext,
}

impl Tools {
    /// For the host that the translator needs. Nothing if Cranelift does not know it.
    pub(super) fn new() -> Option<Tools> {
        use cranelift_codegen::settings::{Configurable as _, Flags, builder};
        let mut flags = builder();
        for (name, value) in [
            ("opt_level", "speed"),
            ("enable_probestack", "false"),
            ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
        ] {
            flags.set(name, value).ok()?;
        }
        let mut host = cranelift_codegen::isa::lookup_by_name("x86_64-unknown-linux").ok()?;
        for feature in ["sse3", "ssse3", "sse41", "sse42", "popcnt", "avx", "avx2", "fma", "bmi1", "bmi2", "lzcnt"] {
            host.enable(&format!("has_{feature}")).ok()?;
        }
        let isa = host.finish(Flags::new(flags)).ok()?;
        Some(Tools { isa, context: Context::new(), frontend: FunctionBuilderContext::new() })
    }

    /// Code for a region. Nothing if there is something in it that is not known.
    pub(super) fn compile(&mut self, region: &Region, site: Site) -> Option<Compiled> {
        self.context.clear();
        let signature = &mut self.context.func.signature;
        *signature = ir::Signature::new(CallConv::Winch);
        signature.params.extend([ir::AbiParam::new(types::I64); 2]);
        signature.returns.push(ir::AbiParam::new(types::I64));
        let builder = FunctionBuilder::new(&mut self.context.func, &mut self.frontend);
        let lowered = Lowerer::new(builder, region).and_then(|lowerer| lowerer.all(self.isa.frontend_config()));
        let Some((ways, has_flags)) = lowered else {
            // It is in the midst of a function.
            self.frontend = FunctionBuilderContext::new();
            return None;
        };
        self.context.compile(&*self.isa, &mut ControlPlane::default()).ok()?;
        let compiled = self.context.compiled_code()?;
        // Nothing in it names an address.
        if !compiled.buffer.relocs().is_empty() {
            return None;
        }
        let begin = region.blocks.first()?.begin;
        Some(enclose(compiled.code_buffer(), &ways, begin, site, has_flags))
    }
}

/// Of guest memory, tables and registers alike: it does not trap. (It may be anywhere: guests need not align.)
fn trusted() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

struct Lowerer<'f, 'r> {
    b: FunctionBuilder<'f>,
    region: &'r Region,
    blocks: Vec<ir::Block>,
    /// By offset in the state.
    registers: FxHashMap<u32, Variable>,
    /// Which may not be in the state where a block begins.
    stale: Rc<[BTreeSet<u32>]>,
    /// The register of condition flags.
    flags: Option<u32>,
    state: ir::Value,
    set: ir::Value,
    page: ir::Value,
    attention: ir::Value,
    windows: Windows,
    /// What the block's windows have found.
    opened: FxHashMap<Value, Variable>,
    calls: FxHashMap<Call, ir::SigRef>,
    ways: Vec<Way>,
    /// The block at hand, and its values.
    at: usize,
    values: Vec<Option<ir::Value>>,
    /// Code that is seldom reached, and is made when the block is.
    later: Vec<Later>,
}

/// What flags are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flags {
    /// As what they are the flags of, for cold code.
    Lazy,
    /// As they are, if they can be here.
    Computed,
}

/// Code that is made when the block is: where it begins, and the state that somebody may look at there.
enum Later {
    Access {
        begin: ir::Block,
        back: ir::Block,
        at: StateId,
        call: Call,
        address: ir::Value,
        meta: u32,
        value: Option<ir::Value>,
    },
    Leave {
        begin: ir::Block,
        at: StateId,
        way: Way,
        address: Option<ir::Value>,
    },
    Exit {
        begin: ir::Block,
        at: StateId,
        to: Exit,
    },
}

impl<'f, 'r> Lowerer<'f, 'r> {
    fn new(mut b: FunctionBuilder<'f>, region: &'r Region) -> Option<Lowerer<'f, 'r>> {
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let (state, set) = (b.block_params(entry)[0], b.block_params(entry)[1]);
        let word =
            |b: &mut FunctionBuilder<'_>, word: u32| b.ins().load(types::I64, trusted(), state, (word * 8) as i32);
        let (page, attention) = (word(&mut b, head::PAGE), word(&mut b, head::ATTENTION));
        let flags = flags::register(region)?;
        let mut registers = FxHashMap::default();
        for offset in read(region).into_iter().filter(|offset| flags != Some(*offset)) {
            let value = b.ins().load(types::I64, trusted(), state, (head::SIZE + offset) as i32);
            let variable = b.declare_var(types::I64);
            b.def_var(variable, value);
            registers.insert(offset, variable);
        }
        let windows = Windows::of(&mut b, region, registers.keys().copied());
        let blocks: Vec<ir::Block> = region.blocks.iter().map(|_| b.create_block()).collect();
        b.ins().jump(*blocks.first()?, &[]);
        let stale = stale(region, &registers).into();
        Some(Lowerer {
            b,
            region,
            blocks,
            registers,
            stale,
            flags,
            state,
            set,
            page,
            attention,
            windows,
            opened: FxHashMap::default(),
            calls: FxHashMap::default(),
            ways: Vec::new(),
            at: 0,
            values: Vec::new(),
            later: Vec::new(),
        })
    }

    /// Gives the ways out, and whether flags may be left to compute.
    fn all(mut self, target: TargetFrontendConfig) -> Option<(Vec<Way>, bool)> {
        for at in 0..self.blocks.len() {
            self.at = at;
            self.b.switch_to_block(self.blocks[at]);
            let block = &self.region.blocks[at];
            self.values.clear();
            self.opened.clear();
            self.values.resize(block.code.len(), None);
            for (number, ir) in block.code.iter().enumerate() {
                self.operation(number as Value, *ir)?;
            }
            while let Some(later) = self.later.pop() {
                self.later(later)?;
            }
        }
        self.b.seal_all_blocks();
        self.b.finalize(target);
        Some((self.ways, self.flags.is_some()))
    }

    fn block(&self) -> &'r Block {
        &self.region.blocks[self.at]
    }

    fn number(&mut self, number: u64) -> ir::Value {
        self.b.ins().iconst(types::I64, number as i64)
    }

    fn value(&mut self, value: Val) -> Option<ir::Value> {
        match value {
            Val::Number(number) => Some(self.number(number)),
            Val::Value(value) => match self.block().code[value as usize] {
                // They are made where they are used, which mostly is nowhere.
                Ir::Flags { width, a, b, carry } => self.flags(width, a, b, carry),
                _ => self.values[value as usize],
            },
        }
    }

    fn word(&mut self, word: u32) -> ir::Value {
        self.b.ins().load(types::I64, trusted(), self.state, (word * 8) as i32)
    }

    fn set_word(&mut self, word: u32, value: ir::Value) {
        self.b.ins().store(trusted(), value, self.state, (word * 8) as i32);
    }

    /// Calls what all regions share.
    fn call(&mut self, call: Call, arguments: &[ir::Value]) {
        let signature = *self.calls.entry(call).or_insert_with(|| {
            let mut signature = ir::Signature::new(CallConv::PreserveAll);
            signature.params.extend(arguments.iter().map(|_| ir::AbiParam::new(types::I64)));
            self.b.import_signature(signature)
        });
        let function = self.word(call.word());
        self.b.ins().call_indirect(signature, function, arguments);
    }

    /// All that the state does not know at a place is written there.
    fn flush(&mut self, at: StateId, flags: Flags) -> Option<()> {
        let block = self.block();
        let (dirty, stale) = (block.dirty(at), Rc::clone(&self.stale));
        for Dirty { offset, value, .. } in dirty {
            if self.flags == Some(*offset) {
                if flags == Flags::Lazy {
                    self.store_flags(*value)?;
                    continue;
                }
                self.flags_are_there();
            }
            let value = self.value(*value)?;
            self.set_register(*offset, value);
        }
        for offset in stale[self.at].iter().filter(|offset| !dirty.iter().any(|it| it.offset == **offset)) {
            let value = self.b.use_var(*self.registers.get(offset)?);
            self.set_register(*offset, value);
        }
        Some(())
    }

    fn set_register(&mut self, offset: u32, value: ir::Value) {
        self.b.ins().store(trusted(), value, self.state, (head::SIZE + offset) as i32);
    }

    /// Goes to another block of the region, or comes back to one. Who turns back looks for who wants the processor.
    fn go(&mut self, at: StateId, to: usize) -> Option<()> {
        let block = self.block();
        let target = self.region.blocks[to].begin;
        if target <= block.begin {
            let wanted = self.b.ins().load(types::I32, trusted(), self.attention, 0);
            let (leaves, stays) = (self.b.create_block(), self.b.create_block());
            self.b.ins().brif(wanted, leaves, &[], stays, &[]);
            self.later.push(Later::Leave { begin: leaves, at, way: Way::Attention(target), address: None });
            self.b.switch_to_block(stays);
        }
        for Dirty { offset, value, .. } in block.dirty(at) {
            if self.flags == Some(*offset) {
                self.store_flags(*value)?;
                continue;
            }
            let value = self.value(*value)?;
            match self.registers.get(offset) {
                Some(variable) => self.b.def_var(*variable, value),
                None => self.set_register(*offset, value),
            }
        }
        self.b.ins().jump(self.blocks[to], &[]);
        Some(())
    }

    /// Code that leaves the block: to another one, or away.
    fn exit(&mut self, at: StateId, to: Exit) -> Option<()> {
        if let Some(to) = self.region.to(to) {
            return self.go(at, to);
        }
        let (way, address) = match to {
            Exit::Direct { plus } => (Way::Direct(plus), None),
            Exit::Indirect(value) => (Way::Indirect, Some(self.value(value)?)),
            Exit::Interpreter => (Way::Interpreter(self.block().states[at as usize].pc), None),
        };
        self.leave(at, way, address)
    }

    fn leave(&mut self, at: StateId, way: Way, address: Option<ir::Value>) -> Option<()> {
        self.flush(at, Flags::Computed)?;
        if let Some(address) = address {
            self.set_word(head::PC, address);
        }
        let number = self.ways.iter().position(|it| *it == way).unwrap_or_else(|| {
            self.ways.push(way);
            self.ways.len() - 1
        });
        // It is added to an address.
        let number = self.number((number * WAY_BYTES) as u64);
        self.b.ins().return_(&[number]);
        Some(())
    }

    fn later(&mut self, later: Later) -> Option<()> {
        let begin = match &later {
            Later::Access { begin, .. } | Later::Leave { begin, .. } | Later::Exit { begin, .. } => *begin,
        };
        self.b.switch_to_block(begin);
        match later {
            Later::Leave { begin, at, way, address } => {
                self.b.set_cold_block(begin);
                self.leave(at, way, address)
            }
            Later::Exit { begin, at, to } => {
                if self.region.to(to).is_none() {
                    self.b.set_cold_block(begin);
                }
                self.exit(at, to)
            }
            Later::Access { begin, back, at, call, address, meta, value } => {
                self.b.set_cold_block(begin);
                self.flush(at, Flags::Lazy)?;
                self.ask(call, address, meta, value, back)
            }
        }
    }
}

/// Registers that blocks of a region read.
fn read(region: &Region) -> BTreeSet<u32> {
    let code = region.blocks.iter().flat_map(|block| &block.code);
    code.filter_map(|ir| if let Ir::Read { offset } = ir { Some(*offset) } else { None }).collect()
}

/// For each block, which variables those before it may have written.
fn stale(region: &Region, variables: &FxHashMap<u32, Variable>) -> Vec<BTreeSet<u32>> {
    let mut all = vec![BTreeSet::new(); region.blocks.len()];
    loop {
        let mut has_changed = false;
        for (at, block) in region.blocks.iter().enumerate() {
            for ir in &block.code {
                let (Ir::Exit { to, at: state, .. } | Ir::ExitIf { to, at: state, .. }) = *ir else { continue };
                let Some(next) = region.to(to) else { continue };
                let written = block.dirty(state).iter().map(|it| it.offset).filter(|it| variables.contains_key(it));
                let more: BTreeSet<u32> = all[at].iter().copied().chain(written).collect();
                has_changed |= !more.is_subset(&all[next]);
                all[next].extend(more);
            }
        }
        if !has_changed {
            return all;
        }
    }
}
