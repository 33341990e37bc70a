//! Requests as senders make them, and what becomes of them.

use std::time::Duration;

use flowline_sdk::testing::{TestHost, request};

use super::*;

/// When the request of Slack's documentation was signed.
const SLACK_SIGNED: i64 = 1_531_420_618_000;

async fn receive(config: Value, request: Request) -> Result<Received, Refusal> {
    TestHost::new().receive(&Operation::webhook(Receive), config, request).await
}

async fn body_of(content_type: &str, body: &[u8]) -> Result<Value, (u16, String)> {
    let request = request("POST", "/hook/test", &[("content-type", content_type)], body.to_vec());
    let received = receive(json!({}), request).await.map_err(|refusal| (refusal.status, refusal.message))?;
    Ok(received.emits.into_iter().next().unwrap().body)
}

#[tokio::test]
async fn a_body_is_read_as_its_content_type_says() {
    let cases: [(&str, &[u8], Value); 15] = [
        ("application/json", br#"{"a": [1, "x"]}"#, json!({"a": [1, "x"]})),
        ("Application/JSON; charset=UTF-8", b"\xEF\xBB\xBFnull", json!(null)),
        ("application/vnd.api+json", b"[]", json!([])),
        ("application/json; charset=iso-8859-1", b"\"\xE4\"", json!("ä")),
        ("application/x-www-form-urlencoded", b"a=1&b=x+y&a=%32&c=", json!({"a": ["1", "2"], "b": "x y", "c": ""})),
        ("text/plain", "grüß dich".as_bytes(), json!("grüß dich")),
        ("text/csv; charset=windows-1252", b"a;\x80", json!("a;€")),
        ("application/xml", b"<a/>", json!({"a": ""})),
        (
            "text/xml",
            b"<?xml version='1.0'?><!-- c --><o id='7'>\n<i>1</i><i n='2'>b</i> t &amp; u</o>",
            json!({"o": {"@id": "7", "i": ["1", {"@n": "2", "#text": "b"}], "#text": "t & u"}}),
        ),
        (
            "application/soap+xml",
            b"<s:E xmlns:s='urn:s'><![CDATA[<x>]]>&#65;</s:E>",
            json!({"s:E": {"@xmlns:s": "urn:s", "#text": "<x>A"}}),
        ),
        ("application/xml", b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a>\xE4</a>", json!({"a": "ä"})),
        ("application/xml", b"<!DOCTYPE a SYSTEM 'x.dtd'><a>1</a>", json!({"a": "1"})),
        ("application/pdf", b"%PDF", json!({"content_type": "application/pdf", "size": 4})),
        ("image/png", b"", json!({"content_type": "image/png", "size": 0})),
        ("text/html", b"", json!("")),
    ];
    for (content_type, body, expected) in cases {
        assert_eq!(body_of(content_type, body).await, Ok(expected), "{content_type}");
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_refused_with_the_place() {
    let deep_json = "[".repeat(200) + &"]".repeat(200);
    let deep_xml = "<a>".repeat(200) + &"</a>".repeat(200);
    let cases: [(&str, &[u8], u16, &str); 15] = [
        ("application/json", b"{\"a\":\n oops}", 400, "line 2 column 2"),
        ("application/json", b"", 400, "line 1 column 0"),
        ("application/json", b"\"\xFF\"", 400, "not UTF-8"),
        ("application/json", deep_json.as_bytes(), 400, "recursion limit"),
        ("application/json; charset=klingon", b"1", 400, "charset"),
        ("text/plain", b"\xC3\x28", 400, "not UTF-8"),
        ("application/xml", b"<a><b></a>", 400, "expected"),
        ("application/xml", b"<a>", 400, "not closed"),
        ("application/xml", b"<a/><b/>", 400, "more than one root"),
        ("application/xml", b"no", 400, "outside the root"),
        ("application/xml", deep_xml.as_bytes(), 400, "nested deeper"),
        (
            "application/xml",
            b"<!DOCTYPE a [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><a>&e;</a>",
            400,
            "`&e;` is not known",
        ),
        ("nonsense", b"1", 415, "content type"),
        ("multipart/form-data", b"", 400, "boundary"),
        ("multipart/form-data; boundary=x", b"--x\r\ncontent-disposition: form-data; name=a\r\n\r\nb", 400, ""),
    ];
    for (content_type, body, status, part) in cases {
        let (found, message) = body_of(content_type, body).await.unwrap_err();
        assert_eq!(found, status, "{content_type} {message}");
        assert!(message.contains(part), "{content_type}: {message}");
    }
}

#[tokio::test]
async fn without_content_the_query_is_the_body() {
    for (method, headers) in [("GET", &[][..]), ("POST", &[]), ("GET", &[("content-type", "application/json")])] {
        let config = json!({ "methods": ["GET", "POST"], "accept": ["application/json"] });
        let received = receive(config, request(method, "/hook/test?a=1&b=%C3%A4&a=2", headers, "")).await.unwrap();
        assert_eq!(received.emits[0].body, json!({ "a": ["1", "2"], "b": "ä" }), "{method} {headers:?}");
    }
}

#[tokio::test]
async fn headers_travel_except_those_that_prove_something() {
    let headers = [
        ("X-Shop", "7"),
        ("via", "a"),
        ("via", "b"),
        ("Authorization", "Bearer t"),
        ("cookie", "c=1"),
        ("x-api-key", "open sesame"),
        ("flowline.reminder", "1"),
        ("http.path", "/forged"),
        ("content-length", "2"),
        ("content-type", "application/json"),
    ];
    let config = json!({ "verify": { "api_key": { "value": "open sesame" } } });
    let received = receive(config, request("POST", "/hook/test?Page=2&page=3", &headers, "{}")).await.unwrap();
    let expected = [
        ("content-type", "application/json"),
        ("http.method", "POST"),
        ("http.path", "/hook/test"),
        ("http.query.page", "2, 3"),
        ("via", "a, b"),
        ("x-shop", "7"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(received.emits[0].headers, BTreeMap::from(expected));
}

#[tokio::test]
async fn limits_hold() {
    let config = json!({ "body_limit": "100", "file_limit": "200" });
    for (content_type, length, expected) in [
        ("text/plain", 100, Ok(())),
        ("text/plain", 101, Err((413, "body_too_large"))),
        ("image/png", 200, Ok(())),
        ("image/png", 201, Err((413, "file_too_large"))),
    ] {
        let request = request("POST", "/", &[("content-type", content_type)], "x".repeat(length));
        let outcome = receive(config.clone(), request).await;
        let outcome = outcome.as_ref().map(|_| ()).map_err(|refusal| (refusal.status, refusal.code.as_str()));
        assert_eq!(outcome, expected, "{content_type} {length}");
    }
}

#[tokio::test]
async fn only_accepted_content_types_are_read() {
    let config = json!({ "accept": ["application/json", "image/*"] });
    for (content_type, status) in [("application/json; charset=utf-8", 0), ("image/png", 0), ("text/plain", 415)] {
        let request = request("POST", "/", &[("content-type", content_type)], "1");
        let refused = receive(config.clone(), request).await.err();
        assert_eq!(refused.as_ref().map_or(0, |refusal| refusal.status), status, "{content_type}");
        if let Some(refusal) = refused {
            assert_eq!(refusal.headers, [("accept".to_owned(), "application/json, image/*".to_owned())]);
        }
    }
}

const FORM: &str = "--x\r\ncontent-disposition: form-data; name=\"tag\"\r\n\r\na\r\n\
    --x\r\ncontent-disposition: form-data; name=\"tag\"\r\n\r\nb\r\n\
    --x\r\ncontent-disposition: form-data; name=\"photo\"; filename=\"C:\\\\up/../me.png\"\r\n\
    content-type: image/png\r\n\r\nPNG\r\n\
    --x\r\ncontent-disposition: form-data; name=\"none\"; filename=\"\"\r\n\r\n\r\n\
    --x--\r\n";

fn form(headers: &[(&str, &str)]) -> Request {
    let all = [&[("content-type", "multipart/form-data; boundary=x")], headers].concat();
    request("POST", "/hook/test", &all, FORM)
}

#[tokio::test]
async fn fields_of_a_form_are_the_body_and_its_files_attachments() {
    let host = TestHost::new();
    let received = host.receive(&Operation::webhook(Receive), json!({}), form(&[])).await.unwrap();
    let emit = &received.emits[0];
    let photo = json!({ "id": "file-1", "name": "me.png", "content_type": "image/png", "size": 3 });
    assert_eq!(emit.body, json!({ "tag": ["a", "b"], "photo": photo }));
    assert_eq!(host.content(&emit.attachments[0]).unwrap(), "PNG");
    assert_eq!(emit.attachments.len(), 1);
}

#[tokio::test]
async fn forms_are_bounded() {
    for (config, code) in [
        (json!({ "files_limit": 0 }), "too_many_files"),
        (json!({ "file_limit": "2" }), "file_too_large"),
        (json!({ "body_limit": "10" }), "body_too_large"),
    ] {
        assert_eq!(receive(config, form(&[])).await.unwrap_err().code, code);
    }
}

#[tokio::test]
async fn a_signed_form_is_no_longer_than_the_body_limit() {
    let signature = "81ceb8b40a2a4fd6b2f2ea5d3a1f4e9d4c1a2bd9b9b0b2e3a5b7f4cbe4cf7ac1";
    let hmac = json!({ "hmac": { "secret": "s" } });
    let config = json!({ "verify": hmac, "body_limit": "100" });
    assert_eq!(receive(config, form(&[("x-signature", signature)])).await.unwrap_err().code, "body_too_large");
    let refused = receive(json!({ "verify": hmac }), form(&[("x-signature", signature)])).await.unwrap_err();
    assert_eq!(refused.status, 401);
}

/// A request as its sender documents it: time in milliseconds, `hmac` configuration, headers, body.
type Signed = (i64, Value, Vec<(&'static str, &'static str)>, &'static str);

/// The examples of RFC 2202, RFC 4231, GitHub's and Slack's documentation; Stripe publishes none.
fn signed() -> Vec<Signed> {
    let slack_body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V\
        &channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=\
        &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
        &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let jefe = "what do ya want for nothing?";
    let old_and_new = "t=1700000000,v0=11,v1=00ff,v1=c89214b5b5da833daed6f0b8c5bb6bd58cea9022bd80ccc78230f3942d632925";
    vec![
        (
            0,
            json!({ "preset": "github", "secret": "It's a Secret to Everybody" }),
            vec![("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")],
            "Hello, World!",
        ),
        (
            SLACK_SIGNED,
            json!({ "preset": "slack", "secret": "8f742231b10e8888abcd99yyyzzz85a5" }),
            vec![
                ("x-slack-signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
                ("x-slack-request-timestamp", "1531420618"),
            ],
            slack_body,
        ),
        (
            1_700_000_000_000,
            json!({ "preset": "stripe", "secret": "whsec_test" }),
            vec![("stripe-signature", old_and_new)],
            "{\"id\":\"evt_1\"}",
        ),
        (
            0,
            json!({ "secret": "Jefe", "algorithm": "sha1", "header": "X-Sig" }),
            vec![("x-sig", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79")],
            jefe,
        ),
        (
            0,
            json!({ "secret": "Jefe", "encoding": "base64", "prefix": "mac:" }),
            vec![("x-signature", "mac:W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM=")],
            jefe,
        ),
        (
            0,
            json!({ "secret": "Jefe", "algorithm": "sha512" }),
            vec![(
                "x-signature",
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd\
                 caeab1a34d4a6b4b636e070a38bce737",
            )],
            jefe,
        ),
    ]
}

/// Hands over a signed request at a time.
async fn receive_signed(now: i64, hmac: &Value, headers: &[(&str, &str)], body: &str) -> Result<Received, Refusal> {
    let host = TestHost::new();
    host.set_now(Timestamp::from_millis(now));
    let headers = [&[("content-type", "text/plain")], headers].concat();
    let config = json!({ "verify": { "hmac": hmac } });
    host.receive(&Operation::webhook(Receive), config, request("POST", "/", &headers, body.to_owned())).await
}

#[tokio::test]
async fn signatures_as_senders_document_them_are_right() {
    for (now, hmac, headers, body) in signed() {
        let received =
            receive_signed(now, &hmac, &headers, body).await.unwrap_or_else(|error| panic!("{hmac}: {error}"));
        assert_eq!(received.emits[0].body, json!(body), "the body is read after it was verified");
        let travelled = received.emits[0].headers.keys().filter(|name| name.contains("sig") || name.contains("time"));
        assert_eq!(travelled.count(), 0, "{hmac}");
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_a_signature_the_answer_is_the_same() {
    for (now, hmac, headers, body) in signed() {
        let mut wrong_secret = hmac.clone();
        wrong_secret["secret"] = json!("another");
        let cut: Vec<_> = headers.iter().map(|(name, value)| (*name, &value[..value.len() - 2])).collect();
        let outcomes = [
            receive_signed(now, &wrong_secret, &headers, body).await,
            receive_signed(now, &hmac, &headers, &format!("{body} ")).await,
            receive_signed(now, &hmac, &cut, body).await,
            receive_signed(now, &hmac, &[], body).await,
        ];
        for outcome in outcomes {
            let expected = Refusal::new(401, "unauthorized", "the request does not prove who sent it");
            assert_eq!(outcome.unwrap_err(), expected, "{hmac}");
        }
    }
}

#[tokio::test]
async fn a_signature_with_a_time_is_valid_for_five_minutes() {
    let (signed_at, hmac, headers, body) = signed().remove(1);
    for (shift, valid) in [(-301_000, false), (-300_000, true), (300_999, true), (301_000, false)] {
        let outcome = receive_signed(signed_at + shift, &hmac, &headers, body).await;
        assert_eq!(outcome.is_ok(), valid, "{shift}");
    }
}

#[tokio::test]
async fn basic_credentials_and_api_keys_open() {
    // `Aladdin:open sesame`, as in RFC 7617.
    let basic = json!({ "basic": { "user": "Aladdin", "password": "open sesame" } });
    let header = json!({ "api_key": { "header": "X-Token", "value": "open sesame" } });
    let query = json!({ "api_key": { "query": "token", "value": "open sesame" } });
    let cases = [
        (&basic, "/", ("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), true),
        (&basic, "/", ("authorization", "basic  QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), true),
        (&basic, "/", ("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZSE="), false),
        (&basic, "/", ("authorization", "Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), false),
        (&basic, "/", ("x-nothing", ""), false),
        (&header, "/", ("x-token", "open sesame"), true),
        (&header, "/", ("x-token", "open sesam"), false),
        (&header, "/?token=open+sesame", ("x-api-key", "open sesame"), false),
        (&query, "/?token=open+sesame", ("x-nothing", ""), true),
        (&query, "/?token=", ("token", "open sesame"), false),
    ];
    for (verify, target, header, opens) in cases {
        let config = json!({ "verify": verify, "methods": ["GET"] });
        let outcome = receive(config, request("GET", target, &[header], "")).await;
        match outcome {
            Ok(received) => {
                assert!(opens, "{verify} {target} {header:?}");
                assert!(!format!("{received:?}").contains("sesame"), "{received:?}");
            }
            Err(refusal) => {
                assert_eq!((opens, refusal.status), (false, 401), "{verify} {target} {header:?}");
                assert_eq!(refusal.headers.is_empty(), verify.get("basic").is_none());
            }
        }
    }
}

#[tokio::test]
async fn an_empty_secret_lets_nobody_in() {
    for verify in [
        json!({ "api_key": { "value": "" } }),
        json!({ "basic": { "user": "", "password": "" } }),
        json!({ "hmac": { "secret": "" } }),
    ] {
        let refusal = receive(json!({ "verify": verify }), request("POST", "/", &[("x-api-key", "")], "")).await;
        assert_eq!(refusal.unwrap_err().status, 500, "{verify}");
    }
}

#[tokio::test]
async fn deliveries_are_known_by_their_name() {
    let github = json!({ "preset": "github", "secret": "It's a Secret to Everybody" });
    let plain = json!({});
    for (config, headers, expected) in [
        (&plain, &[("webhook-id", "w"), ("idempotency-key", "k")][..], Some("k")),
        (&plain, &[("webhook-id", "w"), ("x-delivery-id", "")], Some("w")),
        (&plain, &[("x-github-delivery", "g")], None),
        (&json!({ "delivery_id": "X-Event" }), &[("x-event", "e"), ("idempotency-key", "k")], Some("e")),
    ] {
        let received = receive(config.clone(), request("POST", "/", headers, "")).await.unwrap();
        assert_eq!(received.delivery_id.as_deref(), expected, "{headers:?}");
    }
    let (_, _, mut headers, body) = signed().remove(0);
    headers.push(("x-github-delivery", "g"));
    assert_eq!(receive_signed(0, &github, &headers, body).await.unwrap().delivery_id.as_deref(), Some("g"));
    assert_eq!(delivery_of_body(Preset::Stripe, &json!({ "id": "evt_1" })).as_deref(), Some("evt_1"));
    assert_eq!(delivery_of_body(Preset::Slack, &json!({ "event_id": "Ev1" })).as_deref(), Some("Ev1"));
}

#[test]
fn what_it_accepts_follows_from_the_configuration() {
    let accepts = |config: Value| Receive::accepts(&serde_json::from_value(config).unwrap());
    let expected = Accepts { path: None, methods: vec!["POST".to_owned()], reply_within: None };
    assert_eq!(accepts(json!({})), expected);
    let config =
        json!({ "path": "/shop/orders", "methods": ["GET", "PUT"], "wait_for_reply": "30s", "verify": "none" });
    let expected = Accepts {
        path: Some("shop/orders".to_owned()),
        methods: vec!["GET".to_owned(), "PUT".to_owned()],
        reply_within: Some(Duration::from_secs(30)),
    };
    assert_eq!(accepts(config), expected);
}

#[tokio::test]
async fn whatever_is_cut_off_a_document_it_is_answered() {
    let document = "<?xml version='1.0' encoding='utf-8'?><!DOCTYPE a [<!ENTITY e 'x'>]>\
        <a b='&lt;'><!-- c --><c/>ä&#x41;<![CDATA[d]]></a>";
    assert!(body_of("application/xml", document.as_bytes()).await.is_ok());
    for end in 0..document.len() {
        assert!(body_of("application/xml", &document.as_bytes()[..end]).await.is_err(), "{end}");
        let request = form(&[]);
        let cut = FORM.as_bytes()[..end.min(FORM.len() - 4)].to_vec();
        let request = Request { body: flowline_sdk::testing::in_parts(cut.into()), ..request };
        assert_eq!(receive(json!({}), request).await.unwrap_err().status, 400, "{end}");
    }
}
