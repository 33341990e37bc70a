//! Addresses: which URLs may be called, and how they are written in faults and logs.
//!
//! What stands in a fault never holds a secret, so it names host and path only: user names,
//! passwords and query strings stay out.

use flowline_sdk::Fault;
use serde_json::{Map, Value};
use url::Url;

/// Parses an address and adds a query to it.
pub(crate) fn parse(text: &str, query: &Map<String, Value>) -> Result<Url, Fault> {
    let mut url = Url::parse(text.trim())
        .map_err(|error| Fault::reject("url_invalid", format!("the url is not an address: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Fault::reject("url_invalid", format!("only http and https can be called, not {}", url.scheme())));
    }
    for (name, value) in query {
        add(&mut url, name, value)?;
    }
    Ok(url)
}

/// Adds a parameter to the query: a list adds it once for each item, null not at all.
pub(crate) fn add(url: &mut Url, name: &str, value: &Value) -> Result<(), Fault> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| add(url, name, item)),
        Value::Object(_) => {
            Err(Fault::reject("query_invalid", format!("the query parameter `{name}` is an object, not a value")))
        }
        _ => {
            if let Some(text) = text_of(value) {
                url.query_pairs_mut().append_pair(name, &text);
            }
            Ok(())
        }
    }
}

/// Sets a parameter of the query in place of one with the same name.
pub(crate) fn set(url: &mut Url, name: &str, value: &str) {
    let others: Vec<(String, String)> =
        url.query_pairs().filter(|(key, _)| key != name).map(|(key, value)| (key.into(), value.into())).collect();
    url.query_pairs_mut().clear().extend_pairs(others).append_pair(name, value);
}

/// A plain value as text; none for null, lists and objects.
pub(crate) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// Host and path, for faults and logs.
pub(crate) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{host}{port}{}", url.path())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_query_is_added_and_secrets_are_not_shown() {
        let query = json!({"a": [1, true], "b": "x y", "c": null});
        let url = parse("https://u:p@host.example:8443/x?key=1", query.as_object().unwrap()).unwrap();
        assert_eq!(url.query(), Some("key=1&a=1&a=true&b=x+y"));
        assert_eq!(shown(&url), "host.example:8443/x");
    }

    #[test]
    fn a_parameter_is_replaced() {
        let mut url = Url::parse("http://h/?page=1&q=a").unwrap();
        set(&mut url, "page", "2");
        assert_eq!(url.query(), Some("q=a&page=2"));
    }

    #[test]
    fn other_schemes_are_refused() {
        for text in ["file:///etc/passwd", "ftp://h/", "no address", ""] {
            assert_eq!(parse(text, &Map::new()).unwrap_err().code, "url_invalid", "{text}");
        }
    }
}
