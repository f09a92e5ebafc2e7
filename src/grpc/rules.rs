//! `google.api.http` rules: which requests lead to which method.
//!
//! An upstream's [`Schema`] flows in; [`Binding`]s flow out, and [`Routes`] finds the one that a request is for. A method
//! without a rule is bound by `generate_unbound_methods` only. Methods that take a stream of requests have no form in HTTP.

use std::collections::HashSet;
use std::sync::Arc;

use axum::http::Method;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};

use super::descriptors::Schema;
use super::template::{BadEscape, Template, TemplateError};
use crate::engine::http::memory::Scalars;

/// The message whose methods are event streams.
const EVENT_SOURCE: &str = "gateway.EventSource";
/// The message that is a body as it is.
const HTTP_BODY: &str = "google.api.HttpBody";

/// A method of an upstream.
#[derive(Clone, Debug)]
pub struct Rpc {
    /// The upstream's place in the configuration.
    pub upstream: usize,
    /// The method.
    pub method: MethodDescriptor,
    /// What its messages are for HTTP.
    pub answer: AnswerKind,
}

/// What a method's answers are for HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// `gateway.EventSource`: an event's name and data.
    Event,
    /// `google.api.HttpBody`: bytes with a media type.
    Raw,
    /// Any other message, as JSON.
    Json,
}

/// A method that answers an HTTP method at a path.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The HTTP method.
    pub method: Method,
    /// The paths.
    pub template: Template,
    /// What the request's body is.
    pub body: BodyRule,
    /// What the scalars of a body become.
    pub scalars: Scalars,
    /// The field of the answer that is sent instead of the whole.
    pub response_body: Option<FieldDescriptor>,
    /// Who answers.
    pub rpc: Arc<Rpc>,
}

/// What of the request message the body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyRule {
    /// Nothing: parameters come from the query.
    None,
    /// All of it: the query is not used.
    Whole,
    /// One field.
    Field(FieldDescriptor),
}

/// Why a rule cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("the google.api.http rule of {method}: {problem}; correct it in the .proto file")]
pub struct RuleError {
    method: String,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("`{0}` is not an HTTP method")]
    NoMethod(String),
    #[error("`{field}` is not a field of {message}")]
    NoField { field: String, message: String },
    #[error("the path binds `{0}`, which is repeated, a map or a message; only single values can be in a path")]
    NotScalar(String),
    #[error("it has neither get, put, post, delete, patch nor custom")]
    NoPattern,
    #[error("additional_bindings cannot have their own")]
    Nested,
    #[error("{request} is bound to {other} already")]
    Duplicate { request: String, other: String },
}

impl Rpc {
    pub(super) fn new(upstream: usize, method: MethodDescriptor) -> Rpc {
        let answer = match method.output().full_name() {
            EVENT_SOURCE => AnswerKind::Event,
            HTTP_BODY => AnswerKind::Raw,
            _ => AnswerKind::Json,
        };
        Rpc { upstream, method, answer }
    }

    /// `/package.Service/Method`.
    pub(super) fn path(&self) -> String {
        format!("/{}/{}", self.method.parent_service().full_name(), self.method.name())
    }
}

/// The bindings of all methods of an upstream.
///
/// # Errors
/// The first rule that cannot be served.
pub fn bindings(upstream: usize, schema: &Schema, generate_unbound: bool) -> Result<Vec<Binding>, RuleError> {
    let http = schema.pool().get_extension_by_name("google.api.http");
    let mut bindings = Vec::new();
    for method in schema.pool().services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        if method.is_client_streaming() {
            tracing::debug!(method = method.full_name(), "a method that takes a stream of requests is not served");
            continue;
        }
        let rpc = Arc::new(Rpc::new(upstream, method));
        let options = rpc.method.options();
        let rule = http.as_ref().filter(|http| options.has_extension(http)).map(|http| options.get_extension(http));
        let rule = rule.as_deref().and_then(|rule| rule.as_message());
        let wrong = |problem| RuleError { method: rpc.method.full_name().to_owned(), problem };
        match rule {
            Some(rule) => add_rule(rule, &rpc, false, &mut bindings).map_err(wrong)?,
            None if generate_unbound => {
                let template = Template::parse(&rpc.path()).map_err(|error| wrong(error.into()))?;
                let scalars = scalars_of(&rpc.method.input());
                let (method, body, rpc) = (Method::POST, BodyRule::Whole, Arc::clone(&rpc));
                bindings.push(Binding { method, template, body, scalars, response_body: None, rpc });
            }
            None => {}
        }
    }
    Ok(bindings)
}

fn add_rule(
    rule: &DynamicMessage,
    rpc: &Arc<Rpc>,
    is_additional: bool,
    bindings: &mut Vec<Binding>,
) -> Result<(), Problem> {
    let (method, template) = pattern(rule)?;
    let template = Template::parse(&template)?;
    let (input, output) = (rpc.method.input(), rpc.method.output());
    for variable in template.variables() {
        check_path_field(&input, &variable.field)?;
    }
    let body = match text(rule, "body").as_str() {
        "" => BodyRule::None,
        "*" => BodyRule::Whole,
        name => BodyRule::Field(field_of(&input, name)?),
    };
    let response_body = text(rule, "response_body");
    let response_body = (!response_body.is_empty()).then(|| field_of(&output, &response_body)).transpose()?;
    let scalars = scalars_of(&input);
    bindings.push(Binding { method, template, body, scalars, response_body, rpc: Arc::clone(rpc) });
    let additional = rule.get_field_by_name("additional_bindings");
    let additional = additional.as_deref().and_then(|value| value.as_list()).unwrap_or_default();
    if is_additional && !additional.is_empty() {
        return Err(Problem::Nested);
    }
    additional.iter().filter_map(|rule| rule.as_message()).try_for_each(|rule| add_rule(rule, rpc, true, bindings))
}

fn pattern(rule: &DynamicMessage) -> Result<(Method, String), Problem> {
    let fixed = [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ];
    if let Some((name, method)) = fixed.into_iter().find(|(name, _)| rule.has_field_by_name(name)) {
        return Ok((method, text(rule, name)));
    }
    let custom = rule.get_field_by_name("custom").filter(|_| rule.has_field_by_name("custom"));
    let custom = custom.as_deref().and_then(|custom| custom.as_message()).ok_or(Problem::NoPattern)?;
    let kind = text(custom, "kind");
    let method = Method::from_bytes(kind.as_bytes()).map_err(|_| Problem::NoMethod(kind))?;
    Ok((method, text(custom, "path")))
}

fn text(message: &DynamicMessage, field: &str) -> String {
    let value = message.get_field_by_name(field);
    value.as_deref().and_then(|value| value.as_str()).unwrap_or_default().to_owned()
}

fn field_of(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, Problem> {
    let missing = || Problem::NoField { field: name.to_owned(), message: message.full_name().to_owned() };
    message.get_field_by_name(name).ok_or_else(missing)
}

/// What becomes of a scalar in the JSON of a message: a message of its own where there is one of the known types, such as
/// `google.protobuf.Value` or a wrapper.
fn scalars_of(message: &MessageDescriptor) -> Scalars {
    let (mut seen, mut next) = (HashSet::new(), vec![message.clone()]);
    while let Some(message) = next.pop() {
        if message.full_name().starts_with("google.protobuf.") {
            return Scalars::Messages;
        }
        if seen.insert(message.full_name().to_owned()) {
            next.extend(message.fields().filter_map(|field| field.kind().as_message().cloned()));
        }
    }
    Scalars::Values
}

/// A path can hold one value of a simple type, or of a well-known type that is written as a text.
fn check_path_field(input: &MessageDescriptor, path: &[String]) -> Result<(), Problem> {
    let not_scalar = || Problem::NotScalar(path.join("."));
    let mut message = Some(input.clone());
    for (index, name) in path.iter().enumerate() {
        let field = field_of(&message.take().ok_or_else(not_scalar)?, name)?;
        if field.is_list() || field.is_map() {
            return Err(not_scalar());
        }
        let is_last = index + 1 == path.len();
        match field.kind() {
            Kind::Message(inner) if is_last && !inner.full_name().starts_with("google.protobuf.") => {
                return Err(not_scalar());
            }
            Kind::Message(inner) => message = Some(inner),
            _ => {}
        }
    }
    Ok(())
}

/// All bindings of a gateway.
#[derive(Debug, Default)]
pub struct Routes {
    bindings: Vec<Arc<Binding>>,
}

/// A binding that a request is for, and what its path says.
#[derive(Debug)]
pub struct Found {
    /// The binding.
    pub binding: Arc<Binding>,
    /// What each of the template's variables takes.
    pub values: Vec<String>,
    /// Whether the parameters are in the body, as a form's fields.
    pub is_form: bool,
}

/// Why a request is for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// No such path.
    NotFound,
    /// The path is served, to these methods.
    OtherMethods(Vec<Method>),
    /// The path cannot be decoded.
    BadEscape,
    /// The path has no leading slash.
    NotAPath,
}

impl Routes {
    /// Adds an upstream's bindings, or none of them.
    ///
    /// # Errors
    /// For two that match the same requests.
    pub fn add(&mut self, bindings: Vec<Binding>) -> Result<(), RuleError> {
        let mut added: Vec<Arc<Binding>> = Vec::new();
        for binding in bindings {
            let is_same = |known: &&Arc<Binding>| {
                known.method == binding.method && known.template.shape() == binding.template.shape()
            };
            if let Some(known) = self.bindings.iter().chain(&added).find(is_same) {
                let problem = Problem::Duplicate {
                    request: format!("{} {}", binding.method, binding.template),
                    other: known.rpc.method.full_name().to_owned(),
                };
                return Err(RuleError { method: binding.rpc.method.full_name().to_owned(), problem });
            }
            added.push(Arc::new(binding));
        }
        self.bindings.append(&mut added);
        Ok(())
    }

    /// All of them, in the order in which they were added.
    pub fn bindings(&self) -> &[Arc<Binding>] {
        &self.bindings
    }

    /// Finds the binding that was added last of those that match. A `form` can replace a GET.
    ///
    /// # Errors
    /// [`NoRoute`].
    pub fn find(&self, method: &Method, path: &str, form: bool) -> Result<Found, NoRoute> {
        let segments: Vec<&str> = path.strip_prefix('/').ok_or(NoRoute::NotAPath)?.split('/').collect();
        let mut others = Vec::new();
        let mut as_form = None;
        for binding in self.bindings.iter().rev() {
            let found = |values, is_form| Found { binding: Arc::clone(binding), values, is_form };
            match binding.template.matches(&segments) {
                Ok(None) => {}
                Ok(Some(values)) if binding.method == *method => {
                    // Only a POST has a form: another method is the one that the form names.
                    return Ok(found(values, form && *method != Method::POST));
                }
                Ok(Some(values)) => {
                    if form && binding.method == Method::GET && *method == Method::POST && as_form.is_none() {
                        as_form = Some(found(values, true));
                    }
                    others.push(binding.method.clone());
                }
                Err(BadEscape) => return Err(NoRoute::BadEscape),
            }
        }
        match as_form {
            Some(found) => Ok(found),
            None if others.is_empty() => Err(NoRoute::NotFound),
            None => Err(NoRoute::OtherMethods(others)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fuzzing::schema;
    use super::*;

    fn rules(methods: &str) -> Result<Routes, RuleError> {
        let text = format!(
            "syntax = \"proto3\"; package test; import \"google/api/annotations.proto\";
             message In {{ string name = 1; int64 page_size = 2; In inner = 3; repeated string tags = 4; }}
             service S {{ {methods} }}"
        );
        let mut routes = Routes::default();
        routes.add(bindings(0, &schema(&text), true)?)?;
        Ok(routes)
    }

    fn rule(name: &str, rule: &str) -> String {
        format!("rpc {name}(In) returns (In) {{ option (google.api.http) = {{ {rule} }}; }}")
    }

    fn found(routes: &Routes, method: Method, path: &str) -> Result<(String, Vec<String>), NoRoute> {
        let found = routes.find(&method, path, false)?;
        Ok((found.binding.rpc.method.name().to_owned(), found.values))
    }

    #[test]
    fn every_binding_of_a_rule_is_served_and_the_last_of_several_wins() {
        let methods = [
            rule("Any", "get: \"/v1/{name=**}\""),
            rule("One", "get: \"/v1/one/{inner.name}\" additional_bindings { post: \"/v1/one\" body: \"*\" }"),
            rule("Custom", "custom: { kind: \"PURGE\" path: \"/v1/one\" }"),
            "rpc Unbound(In) returns (In);".to_owned(),
            "rpc Upload(stream In) returns (In);".to_owned(),
        ];
        let routes = rules(&methods.concat()).unwrap();
        let ok = |name: &str, values: &[&str]| Ok((name.to_owned(), values.iter().map(|v| (*v).to_owned()).collect()));
        assert_eq!(found(&routes, Method::GET, "/v1/one/x"), ok("One", &["x"]));
        assert_eq!(found(&routes, Method::GET, "/v1/two/x"), ok("Any", &["two/x"]));
        assert_eq!(found(&routes, Method::POST, "/v1/one"), ok("One", &[]));
        assert_eq!(found(&routes, Method::from_bytes(b"PURGE").unwrap(), "/v1/one"), ok("Custom", &[]));
        assert_eq!(found(&routes, Method::POST, "/test.S/Unbound"), ok("Unbound", &[]));
        assert_eq!(found(&routes, Method::POST, "/test.S/Upload"), Err(NoRoute::NotFound));
        assert_eq!(found(&routes, Method::GET, "/v2"), Err(NoRoute::NotFound));
        assert_eq!(found(&routes, Method::GET, "v1"), Err(NoRoute::NotAPath));
        assert_eq!(found(&routes, Method::GET, "/v1/%zz"), Err(NoRoute::BadEscape));
        assert_eq!(found(&routes, Method::GET, "/test.S/Unbound"), Err(NoRoute::OtherMethods(vec![Method::POST])));
        let form = routes.find(&Method::POST, "/v1/one/x", true).unwrap();
        assert!(form.is_form && form.values == ["x"]);
        let purge = Method::from_bytes(b"PURGE").unwrap();
        assert!(routes.find(&purge, "/v1/one", true).unwrap().is_form, "the form names its method");
        assert!(!routes.find(&Method::POST, "/v1/one", true).unwrap().is_form, "the POST itself is served");
    }

    #[test]
    fn a_message_that_leads_to_a_known_type_has_scalars_that_become_messages() {
        let text = "syntax = \"proto3\"; package test; import \"google/protobuf/wrappers.proto\";
                    message Plain { string name = 1; Plain inner = 2; map<string, Plain> all = 3; }
                    message Deep { Plain plain = 1; map<string, Holder> holders = 2; }
                    message Holder { repeated google.protobuf.Int32Value values = 1; }";
        let schema = schema(text);
        let of = |name: &str| scalars_of(&schema.pool().get_message_by_name(name).unwrap());
        assert_eq!(
            ["test.Plain", "test.Holder", "test.Deep"].map(of),
            [Scalars::Values, Scalars::Messages, Scalars::Messages]
        );
    }

    #[test]
    fn a_rule_that_cannot_be_served_is_named_with_its_method() {
        for (methods, part) in [
            (rule("A", "get: \"v1\""), "a path begins with `/`"),
            (rule("A", "get: \"/v1/{absent}\""), "`absent` is not a field of test.In"),
            (rule("A", "get: \"/v1/{tags}\""), "binds `tags`"),
            (rule("A", "get: \"/v1/{inner}\""), "binds `inner`"),
            (rule("A", "get: \"/v1/{name.x}\""), "binds `name.x`"),
            (rule("A", "post: \"/v1\" body: \"absent\""), "`absent` is not a field"),
            (rule("A", "get: \"/v1\" response_body: \"absent\""), "`absent` is not a field"),
            (rule("A", "custom: { kind: \"A B\" path: \"/v1\" }"), "`A B` is not an HTTP method"),
            (rule("A", "body: \"*\""), "neither get"),
            (rule("A", "get: \"/v1/{name}\"") + &rule("B", "get: \"/v1/*\""), "bound to test.S.A already"),
        ] {
            let error = rules(&methods).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("test.S."), "{error}");
        }
    }
}
