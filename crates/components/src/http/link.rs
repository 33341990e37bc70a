//! The `Link` header (RFC 8288), as far as pagination needs it.

use reqwest::header::{HeaderMap, LINK};

/// The target of the first link with this relation, as written: it may be relative.
pub(crate) fn target(headers: &HeaderMap, relation: &str) -> Option<String> {
    headers
        .get_all(LINK)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(links)
        .find(|(_, parameters)| has_relation(parameters, relation))
        .map(|(target, _)| target.to_owned())
}

/// The links of one header: targets with the text of their parameters.
fn links(header: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = header;
    while let Some((target, after)) = rest.split_once('<').and_then(|(_, opened)| opened.split_once('>')) {
        let end = outside_quotes(after, ',').unwrap_or(after.len());
        found.push((target, &after[..end]));
        rest = &after[end..];
    }
    found
}

fn has_relation(parameters: &str, relation: &str) -> bool {
    let mut rest = parameters;
    while !rest.is_empty() {
        let end = outside_quotes(rest, ';').unwrap_or(rest.len());
        if let Some((name, value)) = rest[..end].split_once('=')
            && name.trim().eq_ignore_ascii_case("rel")
        {
            let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
            return relations.any(|one| one.eq_ignore_ascii_case(relation));
        }
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    false
}

/// Where `wanted` stands outside quoted strings.
fn outside_quotes(text: &str, wanted: char) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (place, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if letter == wanted && !quoted => return Some(place),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        for (header, expected) in [
            (r#"<https://h/a?page=2>; rel="next", <https://h/a?page=9>; rel="last""#, Some("https://h/a?page=2")),
            (r#"<https://h/a?ids=1,2;3>; title="a, <b>; rel=next"; rel="prev", </c>; REL="x next""#, Some("/c")),
            (r"<?page=2>; rel=next", Some("?page=2")),
            (r#"<https://h/1>; rel="last""#, None),
            (r#"<https://h/1; rel="next""#, None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(LINK, header.parse().unwrap())]);
            assert_eq!(target(&headers, "next").as_deref(), expected, "{header}");
        }
    }
}
