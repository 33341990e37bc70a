//! Texts that were written for a browser, as plain text: many descriptors have tags in them.

/// Entities that are met in such texts.
const ENTITIES: [(&str, &str); 5] = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&nbsp;", " "), ("&amp;", "&")];

/// The text without tags; where one ended a line there is a space.
pub(crate) fn plain(text: &str) -> String {
    if !text.contains(['<', '&']) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, from) = rest.split_at(at);
        shown.push_str(before);
        rest = match tag(from) {
            Some(tag) => {
                if breaks(tag) && !shown.ends_with([' ', '\n']) {
                    shown.push(' ');
                }
                &from[tag.len()..]
            }
            None => {
                shown.push('<');
                &from[1..]
            }
        };
    }
    shown.push_str(rest);
    ENTITIES.into_iter().fold(shown, |text, (entity, meant)| text.replace(entity, meant)).trim().to_owned()
}

/// The tag that the text begins with.
fn tag(text: &str) -> Option<&str> {
    let named = text[1..].trim_start_matches('/').starts_with(|c: char| c.is_ascii_alphabetic());
    let end = text.find('>').filter(|_| named)?;
    Some(&text[..=end])
}

fn breaks(tag: &str) -> bool {
    let name = tag.trim_start_matches(['<', '/']).to_ascii_lowercase();
    ["br", "p", "div", "li", "ul"]
        .into_iter()
        .any(|breaking| name.strip_prefix(breaking).is_some_and(|rest| rest.starts_with(['>', '/', ' '])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_go_and_signs_stay() {
        for (written, shown) in [
            ("plain", "plain"),
            ("a <b>bold</b> word<br/>and<br><br>more", "a bold word and more"),
            ("1 < 2 and <> and < b", "1 < 2 and <> and < b"),
            ("an end <b", "an end <b"),
            ("&lt;b&gt; &amp;amp;", "<b> &amp;"),
            ("<div style=\"x\">ä</div>", "ä"),
        ] {
            assert_eq!(plain(written), shown);
        }
    }
}
