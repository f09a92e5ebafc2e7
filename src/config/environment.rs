//! What the environment says instead of a key: a variable itself, or a file that a variable names.
//!
//! Every variable that Sidecar reads may have `_FILE` after its name. It then holds the name of a file that holds the value,
//! so that a secret is in no process's environment.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::error::{ConfigError, Fix, VariableError};

/// The longest value that a file may hold.
const VALUE_BYTES_MAX: u64 = 64 * 1024;

/// The variables of an environment.
pub(super) struct Environment<'a> {
    variables: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Environment<'a> {
    /// Asks `variables` for a variable's value.
    pub(super) fn new(variables: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { variables }
    }

    /// The name of the variable that decides for `variable`: that one, or the same with `_FILE`.
    pub(super) fn decisive(&self, variable: &str) -> Option<String> {
        let is_set = |name: &String| (self.variables)(name).is_some();
        [variable.to_owned(), named_file(variable)].into_iter().find(is_set)
    }

    /// The value of `variable`, if it or its file is set.
    ///
    /// # Errors
    /// When both are set, or the file cannot be read. No error contains the value.
    pub(super) fn get(&self, variable: &str) -> Result<Option<String>, ConfigError> {
        let file_variable = named_file(variable);
        match ((self.variables)(variable), (self.variables)(&file_variable)) {
            (value, None) => Ok(value),
            (None, Some(file)) => read_value(Path::new(&file)).map(Some).map_err(|error| {
                let reason = VariableError::UnreadableFile { variable: variable.to_owned(), error };
                let fix = format!(
                    "the environment variable {file_variable} names the file '{file}'; let it name one that this user may \
                     read and that holds nothing but the value, or unset it"
                );
                ConfigError::Variable { reason, fix: Fix(fix) }
            }),
            (Some(_), Some(_)) => {
                let fix = format!("unset {variable} or {file_variable}");
                let reason = VariableError::SetTwice { variable: variable.to_owned() };
                Err(ConfigError::Variable { reason, fix: Fix(fix) })
            }
        }
    }
}

fn named_file(variable: &str) -> String {
    format!("{variable}_FILE")
}

/// The text in `file`, without the line break at its end.
fn read_value(file: &Path) -> io::Result<String> {
    let mut value = String::new();
    let bytes_read = File::open(file)?.take(VALUE_BYTES_MAX + 1).read_to_string(&mut value)?;
    if bytes_read as u64 > VALUE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {VALUE_BYTES_MAX} bytes")));
    }
    let length = value.trim_end_matches(['\r', '\n']).len();
    value.truncate(length);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, io::Write};

    use super::*;
    use crate::config::samples::{PASSWORD, explained};

    fn get(variables: &HashMap<&str, String>) -> Result<Option<String>, ConfigError> {
        Environment::new(&|name| variables.get(name).cloned()).get("SECRET")
    }

    #[test]
    fn a_value_comes_from_a_variable_or_from_the_file_that_one_names() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(format!("{PASSWORD}\r\n").as_bytes()).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        assert_eq!(get(&HashMap::new()).unwrap(), None);
        assert_eq!(get(&HashMap::from([("SECRET", "x".to_owned())])).unwrap().as_deref(), Some("x"));
        assert_eq!(get(&HashMap::from([("SECRET_FILE", path.clone())])).unwrap().as_deref(), Some(PASSWORD));

        let both = HashMap::from([("SECRET", PASSWORD.to_owned()), ("SECRET_FILE", path)]);
        let error = get(&both).unwrap_err();
        assert!(explained(&error).ends_with("unset SECRET or SECRET_FILE"), "{error}");
        assert!(!format!("{error:?}").contains(PASSWORD));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_its_variable() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let variables = HashMap::from([("SECRET_FILE", file.to_str().unwrap().to_owned())]);
        let error = explained(&get(&variables).unwrap_err());
        assert!(error.contains("SECRET_FILE names the file '") && error.contains("No such file"), "{error}");
        std::fs::write(&file, [b'x'; VALUE_BYTES_MAX as usize + 1]).unwrap();
        assert!(explained(&get(&variables).unwrap_err()).contains("larger than 65536 bytes"));
        std::fs::write(&file, [0xff]).unwrap();
        assert!(explained(&get(&variables).unwrap_err()).contains("valid UTF-8"));
    }
}
