//! Caches with bounds: callers and sources are kept in one of these each.

use std::hash::Hash;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

/// A cache that drops what was used longest ago. (moka's own policy refuses newcomers while it is
/// full, and a caller that has just presented itself must be known.)
pub(crate) fn cache<K, V>(most: u64, unused: Duration) -> Cache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(most)
        .time_to_idle(unused)
        .eviction_policy(EvictionPolicy::lru())
        .build()
}

/// Lets a cache do what it has put off, all of it: it works in small batches.
pub(crate) fn settle<K, V>(cache: &Cache<K, V>)
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let mut before = u64::MAX;
    while cache.entry_count() < before {
        before = cache.entry_count();
        cache.run_pending_tasks();
    }
}
