//! Query parameters, decoded, with one rule for those that come more than once: lists add up, the others are refused.

use std::borrow::Cow;

/// The parameters of a query, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Parameters<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// A parameter that takes one value came several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is given more than once; give it once")]
pub struct Repeated {
    /// The parameter's name.
    pub name: &'static str,
}

impl<'a> Parameters<'a> {
    /// Decodes a query; without one, there are no parameters.
    #[must_use]
    pub fn parse(query: Option<&'a str>) -> Self {
        Parameters(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect())
    }

    /// The first name that is not one of `known`.
    #[must_use]
    pub fn unknown(&self, known: &[&str]) -> Option<&str> {
        self.0.iter().map(|(name, _)| name.as_ref()).find(|name| !known.contains(name))
    }

    /// The value of a parameter that may come once.
    ///
    /// # Errors
    /// [`Repeated`] when it came more often.
    pub fn single(&self, name: &'static str) -> Result<Option<&str>, Repeated> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Repeated { name }),
            (value, None) => Ok(value),
        }
    }

    /// Forgets all but the last value of a parameter that may come several times.
    #[must_use]
    pub fn with_last_of(mut self, name: &str) -> Self {
        let mut after = self.values(name).count();
        self.0.retain(|(known, _)| {
            after -= usize::from(known == name);
            known != name || after == 0
        });
        self
    }

    /// The items of a comma-separated list, all its occurrences together; `None` when there is no such parameter.
    pub fn list(&self, name: &str) -> Option<impl Iterator<Item = &str>> {
        self.values(name).next()?;
        Some(self.values(name).flat_map(|value| value.split(',')))
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_comes_twice_adds_up_and_any_other_parameter_is_refused() {
        let parameters = Parameters::parse(Some("types=A,B&from=1&types=C&limit=2&limit=2"));
        assert_eq!(parameters.list("types").unwrap().collect::<Vec<_>>(), ["A", "B", "C"]);
        assert_eq!(parameters.single("from"), Ok(Some("1")));
        assert_eq!(parameters.single("until"), Ok(None));
        let refused = parameters.single("limit").unwrap_err();
        assert_eq!(refused.to_string(), "`limit` is given more than once; give it once");
        assert!(parameters.list("kinds").is_none());
        let parameters = parameters.with_last_of("types").with_last_of("other");
        assert_eq!(parameters.single("types"), Ok(Some("C")));
        assert_eq!(parameters.single("from"), Ok(Some("1")));
    }

    #[test]
    fn names_and_values_are_decoded_before_they_are_compared() {
        let parameters = Parameters::parse(Some("%74ypes=A%2CB&since=2026-01-01T00%3A00%3A00Z"));
        assert_eq!(parameters.list("types").unwrap().collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(parameters.single("since"), Ok(Some("2026-01-01T00:00:00Z")));
        assert_eq!(parameters.unknown(&["types"]), Some("since"));
        assert_eq!(parameters.unknown(&["types", "since"]), None);
        assert_eq!(Parameters::parse(None).unknown(&[]), None);
    }
}
