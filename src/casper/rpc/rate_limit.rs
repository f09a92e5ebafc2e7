//! How many requests a client address may send.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;

use crate::engine::http::network_of;

/// Addresses that are remembered, at most. Each is forgotten a second after its last request.
const ADDRESSES_MAX: usize = 65_536;

/// So many requests per second of each client address, all of them at once if they come so.
#[derive(Debug)]
pub(super) struct RateLimit {
    per_second: f64,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    of: HashMap<IpAddr, Bucket>,
    /// When those that are full were last forgotten.
    swept: Instant,
}

/// What an address may still send. It goes below zero by a batch, which counts as its requests.
#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl RateLimit {
    pub(super) fn new(per_second: u32) -> Self {
        let buckets = Buckets { of: HashMap::new(), swept: Instant::now() };
        RateLimit { per_second: f64::from(per_second.max(1)), buckets: Mutex::new(buckets) }
    }

    /// Lets a request through, or says how long its client must wait.
    pub(super) fn take(&self, client: IpAddr) -> Result<(), Duration> {
        self.take_at(client, Instant::now())
    }

    fn take_at(&self, client: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bucket) = self.bucket(&mut buckets, client, now) else { return Ok(()) };
        if bucket.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.left) / self.per_second));
        }
        bucket.left -= 1.0;
        Ok(())
    }

    /// Counts more requests that came with one that was let through.
    pub(super) fn charge(&self, client: IpAddr, more: usize) {
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = self.bucket(&mut buckets, client, now) {
            bucket.left -= more as f64;
        }
    }

    /// The client's bucket, filled up to now; `None` where too many others are remembered.
    fn bucket<'a>(&self, buckets: &'a mut Buckets, client: IpAddr, now: Instant) -> Option<&'a mut Bucket> {
        let network = network_of(client);
        let per_second = self.per_second;
        let filled = |bucket: &Bucket| {
            let since = now.saturating_duration_since(bucket.at).as_secs_f64();
            (bucket.left + since * per_second).min(per_second)
        };
        if buckets.of.len() >= ADDRESSES_MAX && !buckets.of.contains_key(&network) {
            if now.saturating_duration_since(buckets.swept) >= Duration::from_secs(1) {
                buckets.of.retain(|_, bucket| filled(bucket) < per_second);
                buckets.swept = now;
            }
            if buckets.of.len() >= ADDRESSES_MAX {
                return None;
            }
        }
        let bucket = buckets.of.entry(network).or_insert(Bucket { left: per_second, at: now });
        bucket.left = filled(bucket);
        bucket.at = now;
        Some(bucket)
    }
}

/// The client's address as a proxy reports it: `X-Real-IP`, else the last one in `X-Forwarded-For`, else the last one in
/// `Forwarded`. What is before the last one is only what the client said.
pub(super) fn reported_client(headers: &HeaderMap) -> Option<IpAddr> {
    let last = |name: &str| headers.get_all(name).iter().next_back()?.to_str().ok()?.rsplit(',').next().map(str::trim);
    let address = |text: &str| text.parse().ok();
    let forwarded = || {
        let element = last("forwarded")?;
        let parameters = element.split(';').filter_map(|parameter| parameter.split_once('='));
        let named = parameters.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
        let value = named.map_or(element, |(_, value)| value.trim().trim_matches('"'));
        address(value.trim_start_matches('[').trim_end_matches(']'))
    };
    last("x-real-ip").and_then(address).or_else(|| last("x-forwarded-for").and_then(address)).or_else(forwarded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_may_send_its_rate_at_once_and_then_at_that_rate() {
        let limit = RateLimit::new(5);
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert!((0..5).all(|_| limit.take_at(ip("1.2.3.4"), start).is_ok()));
        let wait = limit.take_at(ip("1.2.3.4"), start).unwrap_err();
        assert_eq!(wait.as_millis(), 200);
        assert!(limit.take_at(ip("1.2.3.5"), start).is_ok());
        let taken = (1..=20).filter(|step| limit.take_at(ip("1.2.3.4"), at(step * 100 + 1)).is_ok()).count();
        assert_eq!(taken, 10, "five per second for two seconds");
    }

    #[test]
    fn a_batch_is_paid_for_by_what_comes_after_it() {
        let limit = RateLimit::new(10);
        assert!(limit.take(ip("1.2.3.4")).is_ok());
        limit.charge(ip("1.2.3.4"), 29);
        let wait = limit.take(ip("1.2.3.4")).unwrap_err();
        assert!((1900..=2100).contains(&wait.as_millis()), "{wait:?}");
    }

    #[test]
    fn the_addresses_of_one_ipv6_host_are_one_client() {
        let limit = RateLimit::new(1);
        assert!(limit.take(ip("2001:db8::1")).is_ok());
        assert!(limit.take(ip("2001:db8::2")).is_err());
        assert!(limit.take(ip("2001:db8:0:1::2")).is_ok());
        assert!(limit.take(ip("1.2.3.4")).is_ok());
        assert!(limit.take(ip("::ffff:1.2.3.4")).is_err());
    }

    #[test]
    fn only_so_many_addresses_are_remembered() {
        let limit = RateLimit::new(1);
        let start = Instant::now();
        for number in 0..100_000_u32 {
            assert!(limit.take_at(IpAddr::from(number.to_be_bytes()), start).is_ok());
        }
        assert_eq!(limit.buckets.lock().unwrap().of.len(), ADDRESSES_MAX);
        assert!(limit.take_at(ip("200.0.0.1"), start + Duration::from_secs(2)).is_ok());
        assert_eq!(limit.buckets.lock().unwrap().of.len(), 1);
    }

    #[test]
    fn a_proxys_report_is_the_last_one() {
        let reported = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            reported_client(&headers)
        };
        assert_eq!(reported("x-real-ip", "1.2.3.4"), Some(ip("1.2.3.4")));
        assert_eq!(reported("x-forwarded-for", "6.6.6.6, 1.2.3.4"), Some(ip("1.2.3.4")));
        assert_eq!(reported("forwarded", "for=6.6.6.6, for=\"[2001:db8::1]\";proto=http"), Some(ip("2001:db8::1")));
        assert_eq!(reported("forwarded", "1.2.3.4"), Some(ip("1.2.3.4")));
        assert_eq!(reported("x-real-ip", "unknown"), None);
        assert_eq!(reported_client(&HeaderMap::new()), None);
    }
}
