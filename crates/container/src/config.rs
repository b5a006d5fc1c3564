//! Reads `config.json`.

use std::path::Path;

use strata_spec::runtime::Spec;

use crate::error::Error;

/// Reads a bundle's `config.json`. An error says file, line, column and field.
pub fn load_spec(bundle: &Path) -> Result<Spec, Error> {
    let path = bundle.join("config.json");
    let text = std::fs::read(&path).map_err(|source| Error::ConfigUnreadable { path: path.clone(), source })?;
    serde_json::from_slice(&text).map_err(|e| Error::ConfigMalformed {
        path,
        line: e.line(),
        column: e.column(),
        message: e.to_string(),
    })
}
