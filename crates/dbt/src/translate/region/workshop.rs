//! Where regions are compiled: a thread beside the processor's.
//!
//! It begins with the first order, and ends when nobody can order any more. A page that changes takes its orders with it:
//! what comes back for one that is not on the list any more is thrown away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use rustc_hash::FxHashMap;

use super::super::Key;
use super::super::generate::{Compiled, Site};
use super::form::Region;
use super::lower::Tools;

/// A region to compile.
pub(in crate::translate) struct Order {
    pub(in crate::translate) key: Key,
    pub(in crate::translate) region: Region,
    pub(in crate::translate) site: Site,
}

/// What became of an order.
pub(in crate::translate) struct Made {
    pub(in crate::translate) key: Key,
    /// Nothing if it can't be compiled.
    pub(in crate::translate) compiled: Option<Compiled>,
    number: u64,
}

/// Where orders go, and what comes back.
type Bench = (Sender<(u64, Order)>, Receiver<Made>);

/// Orders that were given.
#[derive(Default)]
pub(in crate::translate) struct Workshop {
    bench: Option<Bench>,
    open: FxHashMap<Key, u64>,
    count: u64,
    tools: Option<Tools>,
}

impl Workshop {
    /// Has a region compiled; `attention` is set when it is.
    pub(in crate::translate) fn order(&mut self, order: Order, attention: &Arc<AtomicU32>) {
        if self.open.contains_key(&order.key) {
            return;
        }
        self.count += 1;
        self.open.insert(order.key, self.count);
        let (orders, _) = self.bench.get_or_insert_with(|| bench(Arc::clone(attention)));
        // A thread that has ended makes nothing: blocks do it.
        let _ = orders.send((self.count, order));
    }

    /// Compiles a region at once.
    pub(in crate::translate) fn make(&mut self, order: &Order) -> Option<Compiled> {
        if self.tools.is_none() {
            self.tools = Tools::new();
        }
        self.tools.as_mut()?.compile(&order.region, order.site)
    }

    /// What was ordered of a page is not wanted any more.
    pub(in crate::translate) fn forget_page(&mut self, page: u64) {
        self.open.retain(|key, _| !key.pages().contains(&page));
    }

    pub(in crate::translate) fn forget_all(&mut self) {
        self.open.clear();
    }

    /// Something that was made and is still wanted.
    pub(in crate::translate) fn take(&mut self) -> Option<Made> {
        if self.open.is_empty() {
            return None;
        }
        let (_, made) = self.bench.as_ref()?;
        while let Ok(made) = made.try_recv() {
            if self.open.get(&made.key) == Some(&made.number) {
                self.open.remove(&made.key);
                return Some(made);
            }
        }
        None
    }
}

fn bench(attention: Arc<AtomicU32>) -> Bench {
    let (orders, taken) = channel::<(u64, Order)>();
    let (done, made) = channel();
    let work = move || {
        let mut tools = Tools::new();
        for (number, Order { key, region, site }) in taken {
            let compiled = tools.as_mut().and_then(|tools| tools.compile(&region, site));
            if done.send(Made { key, compiled, number }).is_err() {
                return;
            }
            attention.store(1, Ordering::Release);
        }
    };
    // Without a thread nothing comes back.
    let _ = std::thread::Builder::new().name("regions".into()).spawn(work);
    (orders, made)
}
