//! Answers that never change, kept within a limit of bytes.
//!
//! Two generations: a hit moves its entry to the young one. When that is full it replaces the old one, which is evicted. So
//! what is requested often stays.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// What an entry takes beside its key and its answer, roughly.
const ENTRY_BYTES: usize = 128;
/// The part of the limit that one answer may take at most.
const ANSWER_SHARE: usize = 8;

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    /// Of both generations together; 0 keeps nothing.
    bytes_max: usize,
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Box<str>, Bytes>,
    young_bytes: usize,
    old: HashMap<Box<str>, Bytes>,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Cache { bytes_max, generations: Mutex::default() }
    }

    pub(super) fn is_on(&self) -> bool {
        self.bytes_max > 0
    }

    pub(super) fn get(&self, key: &str) -> Option<Bytes> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = generations.young.get(key) {
            return Some(answer.clone());
        }
        let (key, answer) = generations.old.remove_entry(key)?;
        self.insert(&mut generations, key, answer.clone());
        Some(answer)
    }

    pub(super) fn put(&self, key: String, answer: Bytes) {
        if size(&key, &answer) <= self.bytes_max / ANSWER_SHARE {
            let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
            self.insert(&mut generations, key.into_boxed_str(), answer);
        }
    }

    fn insert(&self, generations: &mut Generations, key: Box<str>, answer: Bytes) {
        let bytes = size(&key, &answer);
        if generations.young_bytes + bytes > self.bytes_max / 2 {
            generations.old = std::mem::take(&mut generations.young);
            generations.young_bytes = 0;
        }
        if generations.young.insert(key, answer).is_none() {
            generations.young_bytes += bytes;
        }
    }
}

fn size(key: &str, answer: &Bytes) -> usize {
    key.len() + answer.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: usize) -> Bytes {
        Bytes::from(vec![b'x'; bytes])
    }

    #[test]
    fn what_is_asked_for_often_stays_and_the_rest_goes_within_the_limit() {
        let cache = Cache::new(100_000);
        cache.put("often".to_owned(), answer(1000));
        for number in 0..1000 {
            cache.put(number.to_string(), answer(1000));
            assert!(cache.get("often").is_some(), "{number}");
        }
        let generations = cache.generations.lock().unwrap();
        let all = generations.young.iter().chain(&generations.old);
        assert!(all.map(|(key, answer)| size(key, answer)).sum::<usize>() <= 100_000);
        assert!(!generations.young.contains_key("0") && !generations.old.contains_key("0"));
    }

    #[test]
    fn a_large_answer_is_not_kept_and_no_answer_is_where_the_cache_is_off() {
        let cache = Cache::new(100_000);
        cache.put("large".to_owned(), answer(20_000));
        assert_eq!(cache.get("large"), None);
        let off = Cache::new(0);
        off.put("small".to_owned(), answer(1));
        assert!(off.get("small").is_none() && !off.is_on());
    }
}
