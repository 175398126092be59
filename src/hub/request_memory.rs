//! The memory for what open watches keep of their requests: filters, patterns, `fields`, stages and names. It is a
//! part of the memory budget, so that clients can't take all of it from the events.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    error::Error,
    hub::{
        budget::MemoryBudget,
        sync::{Mutex, lock},
    },
    limit::{Exceeded, Limit},
    metrics::Metrics,
    model::Caller,
    pipeline::{Plan, Shape, Watch},
};

/// The part of the memory budget that requests may take: one in this many bytes.
const PART_OF_BUDGET: usize = 4;
/// The part of that which one authenticated principal may take: one in this many bytes. Callers that no
/// authentication tells apart may take all of it.
const PART_OF_PRINCIPAL: usize = 2;

/// What a watch may keep beside what is charged, once for its shape and once for itself: it is part of the memory of
/// an idle watch. So watches without filters, with common ones, and equal ones are never refused.
const UNCHARGED_BYTES: usize = 2 << 10;

/// The delay before a retry.
const RETRY_LATER: Duration = Duration::from_secs(5);

/// Counts what requests take. Watches of equal shapes keep one, which is counted once, and once for each of their
/// principals.
#[derive(Debug)]
pub(super) struct RequestMemory {
    budget: Arc<MemoryBudget>,
    limit: Limit,
    principal_limit: Limit,
    max_bytes: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    used: usize,
    shapes: HashMap<Arc<Shape>, Holders>,
    /// The bytes of each principal that has any.
    by_principal: HashMap<Arc<str>, usize>,
}

/// The watches of one shape.
#[derive(Debug)]
struct Holders {
    bytes: usize,
    watches: usize,
    /// The number of watches of each principal.
    by_principal: HashMap<Arc<str>, usize>,
}

/// What one open watch keeps of its request. Given back when it is dropped.
#[derive(Debug)]
pub struct HeldRequest {
    memory: Arc<RequestMemory>,
    shape: Arc<Shape>,
    principal: Option<Arc<str>>,
    own_bytes: usize,
}

/// The memory of a feed's plan. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct HeldPlan {
    memory: Arc<RequestMemory>,
    bytes: usize,
}

impl RequestMemory {
    pub(super) fn new(
        memory_limit: usize,
        budget: Arc<MemoryBudget>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let max_bytes = memory_limit / PART_OF_BUDGET;
        let limit = |label, max_bytes: usize| {
            Limit::new("KiB of filters", max_bytes >> 10)
                .counted_by(metrics.limit_rejections.of(label))
        };
        Arc::new(Self {
            budget,
            limit: limit("filters", max_bytes),
            principal_limit: limit("principal_filters", max_bytes / PART_OF_PRINCIPAL),
            max_bytes,
            table: Mutex::default(),
        })
    }

    /// Counts what a watch keeps, and has it share that with the watches that are equal.
    ///
    /// # Errors
    /// There is not enough left, for all or for the watch's principal. The rejection is counted.
    pub(super) fn hold(self: &Arc<Self>, watch: &mut Watch) -> Result<HeldRequest, Error> {
        let shape = Arc::new(watch.shape());
        let charged = |bytes: usize| bytes.saturating_sub(UNCHARGED_BYTES);
        let (bytes, own_bytes) = (charged(shape.heap_bytes()), charged(watch.own_bytes()));
        let principal = match &watch.caller {
            Caller::Principal(name) => Some(Arc::clone(name)),
            Caller::Address(_) => None,
        };
        let shape = self.count(shape, principal.as_ref(), bytes, own_bytes)?;
        watch.share(&shape);
        Ok(HeldRequest {
            memory: Arc::clone(self),
            shape,
            principal,
            own_bytes,
        })
    }

    /// Counts a watch, and returns the shape that it shares.
    fn count(
        &self,
        shape: Arc<Shape>,
        principal: Option<&Arc<str>>,
        bytes: usize,
        own_bytes: usize,
    ) -> Result<Arc<Shape>, Error> {
        let mut table = lock(&self.table);
        let table = &mut *table;
        let holders = table.shapes.get(&shape);
        let more = own_bytes + if holders.is_some() { 0 } else { bytes };
        if table.used + more > self.max_bytes {
            return Err(self.limit.reject().into());
        }
        if let Some(principal) = principal {
            let has_it = holders.is_some_and(|it| it.by_principal.contains_key(principal));
            let more = own_bytes + if has_it { 0 } else { bytes };
            let used = table
                .by_principal
                .get(principal)
                .copied()
                .unwrap_or_default();
            if used + more > self.max_bytes / PART_OF_PRINCIPAL {
                return Err(quota(&self.principal_limit.reject()));
            }
            *table.by_principal.entry(Arc::clone(principal)).or_default() += more;
        }
        table.used += more;
        self.budget.take(more);
        let shared = table.shapes.get_key_value(&shape);
        let shape = shared.map_or(shape, |(shared, _)| Arc::clone(shared));
        let holders = table.shapes.entry(Arc::clone(&shape));
        let holders = holders.or_insert_with(|| Holders {
            bytes,
            watches: 0,
            by_principal: HashMap::new(),
        });
        holders.watches += 1;
        if let Some(principal) = principal {
            *holders
                .by_principal
                .entry(Arc::clone(principal))
                .or_default() += 1;
        }
        Ok(shape)
    }

    /// Counts the plan of a feed.
    ///
    /// # Errors
    /// There is not enough left. The rejection is not counted, as the watch may do without the feed.
    pub(super) fn hold_plan(self: &Arc<Self>, plan: &Plan) -> Option<HeldPlan> {
        let bytes = plan.heap_bytes();
        let mut table = lock(&self.table);
        if table.used + bytes > self.max_bytes {
            return None;
        }
        table.used += bytes;
        self.budget.take(bytes);
        Some(HeldPlan {
            memory: Arc::clone(self),
            bytes,
        })
    }

    /// Counts a rejection and returns it.
    pub(super) fn reject(&self) -> Exceeded {
        self.limit.reject()
    }
}

fn quota(exceeded: &Exceeded) -> Error {
    Error::Quota {
        owner: "this principal",
        limit: "principal_filters",
        allowed: format!(
            "{} KiB of filters, patterns, fields and stages of its open watches",
            exceeded.max
        ),
        retry: RETRY_LATER,
    }
}

impl Drop for HeldRequest {
    fn drop(&mut self) {
        let mut table = lock(&self.memory.table);
        let table = &mut *table;
        let mut less = self.own_bytes;
        let mut principal_less = self.own_bytes;
        if let Some(holders) = table.shapes.get_mut(&self.shape) {
            holders.watches -= 1;
            let bytes = holders.bytes;
            if let Some(principal) = &self.principal
                && let Some(watches) = holders.by_principal.get_mut(principal)
            {
                *watches -= 1;
                if *watches == 0 {
                    holders.by_principal.remove(principal);
                    principal_less += bytes;
                }
            }
            if holders.watches == 0 {
                // Its memory is freed below, with the last reference.
                table.shapes.remove(&self.shape);
                less += bytes;
            }
        }
        if let Some(principal) = &self.principal
            && let Some(used) = table.by_principal.get_mut(principal)
        {
            *used -= principal_less;
            if *used == 0 {
                table.by_principal.remove(principal);
            }
        }
        table.used -= less;
        self.memory.budget.give_back(less);
    }
}

impl Drop for HeldPlan {
    fn drop(&mut self) {
        lock(&self.memory.table).used -= self.bytes;
        self.memory.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests;
