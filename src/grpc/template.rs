//! Path templates of `google.api.http`, parsed and matched against a request's raw path.
//!
//! ```text
//! template = "/" segment { "/" segment } [ ":" verb ]
//! segment  = "*" | "**" | literal | "{" field.path [ "=" segment { "/" segment } ] "}"
//! ```
//!
//! `**` takes all segments that are left, and may only be the last. What a variable of one segment takes is decoded; in a
//! variable of several segments `%2F` stays, so that a slash in a name is not one between names.

use std::fmt;

/// A path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
    variables: Vec<Variable>,
    verb: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// Decoded.
    Literal(String),
    /// Any one segment.
    One,
    /// All segments that are left.
    Rest,
}

/// A part of the path that is bound to a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// The field's path: proto names.
    pub field: Vec<String>,
    /// Its first segment.
    start: usize,
    /// The segment after its last.
    end: usize,
    is_multiple: bool,
}

/// Why a text is not a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path template `{template}` is wrong at character {at}: {what}")]
pub struct TemplateError {
    template: String,
    at: usize,
    what: &'static str,
}

/// An escape in a path that is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadEscape;

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// [`TemplateError`] says where and what.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let mut parser = Parser { text, rest: text, template: Template::empty() };
        parser.template()?;
        Ok(parser.template)
    }

    fn empty() -> Self {
        Template { segments: Vec::new(), variables: Vec::new(), verb: None }
    }

    /// The variables, in their order.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// What the variables take of a path's raw `segments`, in their order; `None` where the template does not match.
    ///
    /// # Errors
    /// [`BadEscape`] where it matches and the path is not decodable.
    pub fn matches(&self, segments: &[&str]) -> Result<Option<Vec<String>>, BadEscape> {
        let mut without_verb = Vec::new();
        let mut segments = segments;
        if let Some(verb) = &self.verb {
            let Some((last, before)) = segments.split_last() else { return Ok(None) };
            let Some((last, found)) = last.rsplit_once(':') else { return Ok(None) };
            if found != verb {
                return Ok(None);
            }
            without_verb.extend_from_slice(before);
            without_verb.push(last);
            segments = &without_verb;
        }
        let has_rest = self.segments.last() == Some(&Segment::Rest);
        let fixed = self.segments.len() - usize::from(has_rest);
        if segments.len() < fixed || (segments.len() > fixed && !has_rest) {
            return Ok(None);
        }
        for (wanted, found) in self.segments.iter().zip(segments) {
            let fits = match wanted {
                Segment::Literal(literal) => literal == found || decode(found, false).as_ref() == Ok(literal),
                Segment::One => !found.is_empty(),
                Segment::Rest => true,
            };
            if !fits {
                return Ok(None);
            }
        }
        let value = |variable: &Variable| {
            let reaches_rest = has_rest && variable.end == self.segments.len();
            let end = if reaches_rest { segments.len() } else { variable.end };
            let taken = segments.get(variable.start..end).unwrap_or_default();
            let decoded: Result<Vec<String>, BadEscape> =
                taken.iter().map(|segment| decode(segment, variable.is_multiple)).collect();
            decoded.map(|decoded| decoded.join("/"))
        };
        self.variables.iter().map(value).collect::<Result<_, _>>().map(Some)
    }

    /// The template without the names of its variables: two that are equal in this match the same paths.
    pub fn shape(&self) -> String {
        let mut shape = String::new();
        for segment in &self.segments {
            shape.push('/');
            match segment {
                Segment::Literal(literal) => shape.push_str(literal),
                Segment::One => shape.push('*'),
                Segment::Rest => shape.push_str("**"),
            }
        }
        if let Some(verb) = &self.verb {
            shape.push(':');
            shape.push_str(verb);
        }
        shape
    }
}

/// As an OpenAPI document has it: `/things/{thing.name}`.
impl fmt::Display for Template {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut index = 0;
        while let Some(segment) = self.segments.get(index) {
            out.write_str("/")?;
            if let Some(variable) = self.variables.iter().find(|variable| variable.start == index) {
                write!(out, "{{{}}}", variable.field.join("."))?;
                index = variable.end.max(index + 1);
                continue;
            }
            match segment {
                Segment::Literal(literal) => out.write_str(literal)?,
                Segment::One => out.write_str("*")?,
                Segment::Rest => out.write_str("**")?,
            }
            index += 1;
        }
        if let Some(verb) = &self.verb {
            write!(out, ":{verb}")?;
        }
        Ok(())
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    template: Template,
}

impl Parser<'_> {
    fn template(&mut self) -> Result<(), TemplateError> {
        if !self.takes('/') {
            return Err(self.wrong("a path begins with `/`"));
        }
        // The root has no segment.
        if self.rest.is_empty() {
            self.template.segments.push(Segment::Literal(String::new()));
            return Ok(());
        }
        loop {
            self.segment(false)?;
            if !self.takes('/') {
                break;
            }
        }
        if self.takes(':') {
            let verb = self.literal()?;
            self.template.verb = Some(verb);
        }
        if self.rest.is_empty() { Ok(()) } else { Err(self.wrong("expected `/`, `:` or the end")) }
    }

    fn segment(&mut self, in_variable: bool) -> Result<(), TemplateError> {
        if self.template.segments.last() == Some(&Segment::Rest) {
            return Err(self.wrong("nothing may come after `**`"));
        }
        if self.takes('{') {
            if in_variable {
                return Err(self.wrong("a variable cannot have another one inside"));
            }
            return self.variable();
        }
        let segment = if self.takes('*') {
            if self.takes('*') { Segment::Rest } else { Segment::One }
        } else {
            Segment::Literal(self.literal()?)
        };
        self.template.segments.push(segment);
        Ok(())
    }

    fn variable(&mut self) -> Result<(), TemplateError> {
        let mut field = vec![self.identifier()?];
        while self.takes('.') {
            field.push(self.identifier()?);
        }
        if self.template.variables.iter().any(|variable| variable.field == field) {
            return Err(self.wrong("a field can be bound once"));
        }
        let start = self.template.segments.len();
        if self.takes('=') {
            loop {
                self.segment(true)?;
                if !self.takes('/') {
                    break;
                }
            }
        } else {
            self.template.segments.push(Segment::One);
        }
        if !self.takes('}') {
            return Err(self.wrong("expected `}`"));
        }
        let end = self.template.segments.len();
        let is_multiple = end - start > 1 || self.template.segments.last() == Some(&Segment::Rest);
        self.template.variables.push(Variable { field, start, end, is_multiple });
        Ok(())
    }

    fn identifier(&mut self) -> Result<String, TemplateError> {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        if !self.rest.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
            return Err(self.wrong("expected the name of a field"));
        }
        Ok(self.take_while(is_part).to_owned())
    }

    fn literal(&mut self) -> Result<String, TemplateError> {
        let is_part = |letter: char| !matches!(letter, '/' | ':' | '{' | '}' | '*' | '=' | '?' | '#') && letter > ' ';
        let found = self.take_while(is_part);
        if found.is_empty() {
            return Err(self.wrong("expected a literal"));
        }
        decode(found, false).map_err(|BadEscape| self.wrong("`%` needs two hexadecimal digits, and UTF-8 text"))
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &str {
        let end = self.rest.find(|letter| !is_part(letter)).unwrap_or(self.rest.len());
        let (found, rest) = self.rest.split_at(end);
        self.rest = rest;
        found
    }

    fn takes(&mut self, letter: char) -> bool {
        match self.rest.strip_prefix(letter) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn wrong(&self, what: &'static str) -> TemplateError {
        let before = self.text.strip_suffix(self.rest).unwrap_or(self.text);
        TemplateError { template: self.text.to_owned(), at: before.chars().count() + 1, what }
    }
}

/// Decodes `%XX`; `keeps_slash` leaves `%2F` as it is.
fn decode(segment: &str, keeps_slash: bool) -> Result<String, BadEscape> {
    if !segment.contains('%') {
        return Ok(segment.to_owned());
    }
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(BadEscape) };
        match high << 4 | low {
            b'/' if keeps_slash => decoded.extend_from_slice(b"%2F"),
            byte => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).map_err(|_| BadEscape)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn takes(template: &str, path: &str) -> Option<Vec<String>> {
        let segments: Vec<&str> = path.strip_prefix('/').unwrap().split('/').collect();
        Template::parse(template).unwrap().matches(&segments).unwrap()
    }

    fn strings(values: &[&str]) -> Option<Vec<String>> {
        Some(values.iter().map(|value| (*value).to_owned()).collect())
    }

    #[test]
    fn templates_match_the_paths_that_the_rules_say() {
        assert_eq!(takes("/v1/things", "/v1/things"), strings(&[]));
        assert_eq!(takes("/v1/things", "/v1/thing"), None);
        assert_eq!(takes("/v1/things", "/v1/things/"), None);
        assert_eq!(takes("/", "/"), strings(&[]));
        assert_eq!(takes("/v1/{name}", "/v1/a%20b"), strings(&["a b"]));
        assert_eq!(takes("/v1/{name}", "/v1/"), None);
        assert_eq!(takes("/v1/{name}/parts/{part.id}", "/v1/x/parts/7"), strings(&["x", "7"]));
        assert_eq!(takes("/v1/{name=shelves/*}/books", "/v1/shelves/9/books"), strings(&["shelves/9"]));
        assert_eq!(takes("/v1/{name=shelves/*}/books", "/v1/boxes/9/books"), None);
        assert_eq!(takes("/v1/{rest=**}", "/v1/a/b%2Fc/d%20e"), strings(&["a/b%2Fc/d e"]));
        assert_eq!(takes("/v1/{rest=**}", "/v1"), strings(&[""]));
        assert_eq!(takes("/v1/{one}", "/v1/b%2Fc"), strings(&["b/c"]));
        assert_eq!(takes("/v1/*/x", "/v1/anything/x"), strings(&[]));
        assert_eq!(takes("/v1/{name}:cancel", "/v1/a:b:cancel"), strings(&["a:b"]));
        assert_eq!(takes("/v1/{name}:cancel", "/v1/a"), None);
        assert_eq!(takes("/v1/a%20b", "/v1/a%20b"), strings(&[]));
    }

    #[test]
    fn a_wrong_template_is_explained_with_its_place() {
        for (text, at, what) in [
            ("v1", 1, "begins with `/`"),
            ("/v1//x", 5, "expected a literal"),
            ("/v1/{a", 7, "expected `}`"),
            ("/v1/{a={b}}", 9, "another one inside"),
            ("/v1/{1a}", 6, "name of a field"),
            ("/v1/**/x", 8, "after `**`"),
            ("/v1/{a}/{a}", 11, "bound once"),
            ("/v1/x?y", 6, "or the end"),
            ("/v1/%zz", 8, "hexadecimal"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.what.contains(what) && error.at == at, "{text}: {error}");
        }
    }

    #[test]
    fn a_bad_escape_in_a_path_that_matches_is_found() {
        let template = Template::parse("/v1/{name}").unwrap();
        for segment in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(template.matches(&["v1", segment]), Err(BadEscape), "{segment}");
        }
    }

    #[test]
    fn a_template_is_shown_as_openapi_has_it() {
        for (text, shown, shape) in [
            ("/v1/{name=shelves/*}/books:list", "/v1/{name}/books:list", "/v1/shelves/*/books:list"),
            ("/v1/{a.b}/*/{rest=**}", "/v1/{a.b}/*/{rest}", "/v1/*/*/**"),
            ("/", "/", "/"),
        ] {
            let template = Template::parse(text).unwrap();
            assert_eq!((template.to_string(), template.shape()), (shown.to_owned(), shape.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn no_template_and_no_path_panic(template in "[/a*{}=.:%20é]{0,20}", path in "[/a:%20é]{0,20}") {
            if let Ok(template) = Template::parse(&template) {
                let segments: Vec<&str> = path.split('/').collect();
                let taken = template.matches(&segments);
                prop_assert!(taken.is_err() || taken.unwrap().is_none_or(|taken| taken.len() == template.variables().len()));
                let _ = (template.to_string(), template.shape());
            }
        }

        #[test]
        fn what_a_variable_takes_is_what_was_put_in(value in "[a-z /%:é*]{1,12}") {
            let raw: String = form_urlencoded::byte_serialize(value.as_bytes()).collect();
            let raw = raw.replace('+', "%20");
            prop_assert_eq!(takes("/x/{name}", &format!("/x/{raw}")), Some(vec![value]));
        }
    }
}
