//! The end of an era in a switch block. 1.x had one reward for each validator, within 64 bits.

use std::collections::BTreeMap;

use casper_types::U512;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::text::Text;
use crate::casper::event::folded;

#[derive(Deserialize)]
struct NewEraEnd<'a> {
    #[serde(borrow)]
    equivocators: Vec<Text<'a>>,
    #[serde(borrow)]
    inactive_validators: Vec<Text<'a>>,
    #[serde(borrow)]
    next_era_validator_weights: Vec<Weight<'a>>,
    #[serde(borrow)]
    rewards: BTreeMap<Text<'a>, Vec<Text<'a>>>,
}

#[derive(Serialize)]
pub(super) struct EraEnd<'a> {
    era_report: EraReport<'a>,
    next_era_validator_weights: Vec<Weight<'a>>,
}

#[derive(Serialize)]
struct EraReport<'a> {
    equivocators: Vec<Text<'a>>,
    rewards: Vec<Reward<'a>>,
    inactive_validators: Vec<Text<'a>>,
}

#[derive(Deserialize, Serialize)]
struct Weight<'a> {
    #[serde(borrow)]
    validator: Text<'a>,
    weight: Text<'a>,
}

#[derive(Serialize)]
struct Reward<'a> {
    validator: Text<'a>,
    amount: u64,
}

/// Reads the end of an era into its 1.x form. A reward above 64 bits leaves none: the block then looks like any other.
pub(super) fn translated<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<EraEnd<'a>>, D::Error> {
    let Some(new) = Option::<NewEraEnd<'de>>::deserialize(deserializer)? else { return Ok(None) };
    let NewEraEnd { equivocators, inactive_validators, mut next_era_validator_weights, rewards } = new;
    let mut summed = Vec::with_capacity(rewards.len());
    for (validator, amounts) in rewards {
        let Some(amount) = sum(&amounts).map_err(D::Error::custom)? else { return Ok(None) };
        summed.push(Reward { validator, amount });
    }
    // The digits begin with the number of the algorithm, so their order is that of the keys.
    summed.sort_by(|left, right| folded(&left.validator.0).cmp(&folded(&right.validator.0)));
    next_era_validator_weights.sort_by(|left, right| folded(&left.validator.0).cmp(&folded(&right.validator.0)));
    let era_report = EraReport { equivocators, rewards: summed, inactive_validators };
    Ok(Some(EraEnd { era_report, next_era_validator_weights }))
}

/// `None` above 64 bits.
fn sum(amounts: &[Text<'_>]) -> Result<Option<u64>, &'static str> {
    let mut sum = U512::zero();
    for Text(amount) in amounts {
        let amount = U512::from_dec_str(amount).map_err(|_| "a reward is not a number of at most 512 bits")?;
        let Some(larger) = sum.checked_add(amount) else { return Ok(None) };
        sum = larger;
    }
    Ok(u64::try_from(sum).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum_of(amounts: &[&str]) -> Result<Option<u64>, &'static str> {
        sum(&amounts.iter().map(|amount| Text((*amount).into())).collect::<Vec<_>>())
    }

    #[test]
    fn rewards_add_up_to_64_bits_and_above_there_is_no_sum() {
        assert_eq!(sum_of(&[]), Ok(Some(0)));
        assert_eq!(sum_of(&["18446744073709551614", "1"]), Ok(Some(u64::MAX)));
        assert_eq!(sum_of(&["18446744073709551615", "1"]), Ok(None));
        let largest = U512::MAX.to_string();
        assert_eq!(sum_of(&[&largest, "1"]), Ok(None));
        for bad in ["-1", "x", "0x1", &format!("{largest}0")] {
            assert!(sum_of(&[bad]).is_err(), "{bad}");
        }
    }
}
