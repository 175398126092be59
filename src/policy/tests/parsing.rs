//! Valid and invalid policy files.

use super::*;

#[test]
fn the_documented_examples_are_valid() {
    let page = include_str!("../../../docs/policy.md");
    let mut blocks = page
        .split("\n```")
        .skip(1)
        .step_by(2)
        .filter_map(|it| it.strip_prefix("yaml\n"));
    let mut count = 0;
    for block in blocks.by_ref().filter(|it| it.starts_with("version:")) {
        read(block).unwrap_or_else(|problem| panic!("{problem}\n{block}"));
        count += 1;
    }
    assert!(count > 0, "docs/policy.md has no example");
}

#[test]
fn errors_name_the_place_and_the_problem() {
    let with = |line: &str| rule(line);
    let mut wrong = Vec::new();
    for (yaml, location, words) in [
        (String::new(), "line 1", "unexpected end"),
        ("version: 2\nrules: []".to_owned(), "version", "use 1,"),
        ("version: 1".to_owned(), "", "rules"),
        (
            "version: 1\nrules: []\nrule: []".to_owned(),
            "line 3",
            "unknown field",
        ),
        (
            "version: 1\nrules: []\nrules: []".to_owned(),
            "line 3",
            "duplicate",
        ),
        (
            "version: 1\nrules: []\n---\nversion: 1\nrules: []".to_owned(),
            "",
            "",
        ),
        ("version: 1\nrules: &a [*a]".to_owned(), "", ""),
        (
            "version: 1\nrules: [{name: a}]".to_owned(),
            "line 2",
            "namespaces",
        ),
        (
            "version: 1\nrules: [{name: '', namespaces: ['*']}]".to_owned(),
            "rules[0].name",
            "1 to 100",
        ),
        (
            "version: 1\nrules: [{name: a, namespaces: ['*']}, {name: a, namespaces: ['*']}]"
                .to_owned(),
            "rules[1].name",
            "earlier",
        ),
        (with("namespace: [a.b]"), "line 5", "unknown field"),
        (with("principals: []"), "rules[0].principals", "1 to"),
        // A list that is commented out must not apply to everybody.
        (
            with("principals:"),
            "line 5, column 5",
            "\"principals\" has nothing behind it: give it a value or remove it",
        ),
        (
            with("claims:"),
            "line 5, column 5",
            "\"claims\" has nothing behind it: give it a value or remove it",
        ),
        (
            with("filter:"),
            "line 5, column 5",
            "\"filter\" has nothing behind it: give it a value or remove it",
        ),
        (with("filter: ~"), "rules[0].filter", "mapping"),
        (
            with("hide:"),
            "line 5, column 5",
            "\"hide\" has nothing behind it: give it a value or remove it",
        ),
        (
            with("operations:"),
            "line 5, column 5",
            "\"operations\" has nothing behind it: give it a value or remove it",
        ),
        (
            with("principals: [alice]"),
            "rules[0].principals[0]",
            "jwt:NAME",
        ),
        (
            with("principals: ['key:a', 'user:alice']"),
            "rules[0].principals[1]",
            "jwt:NAME",
        ),
        (
            with("principals: ['jwt:']"),
            "rules[0].principals[0]",
            "jwt:NAME",
        ),
        (
            with("principals: ['*']"),
            "rules[0].principals[0]",
            "jwt:NAME",
        ),
        (with("claims: {}"), "rules[0].claims", "1 to"),
        (with("claims: {role: []}"), "rules[0].claims.role", "1 to"),
        (with("claims: {role: 'a*'}"), "rules[0].claims.role", "*"),
        (with("claims: {role: ['*']}"), "rules[0].claims.role", "*"),
        (with("claims: {role: ''}"), "rules[0].claims.role", "empty"),
        (
            with("claims: {role: null}"),
            "rules[0].claims.role",
            "not a string",
        ),
        (
            with("claims: {role: {a: b}}"),
            "rules[0].claims.role",
            "not a string",
        ),
        (with("operations: []"), "rules[0].operations", "1 to"),
        (
            with("filter: {a: 1}\noperations: [insert, other]"),
            "rules[0].operations[1]",
            "with a filter",
        ),
        (
            with("operations: [inserts]"),
            "rules[0].operations[0]",
            "use one of insert, update",
        ),
        (
            with("operations: [invalidate]"),
            "rules[0].operations[0]",
            "unknown operation",
        ),
        (
            with("full_document: [lookup]"),
            "rules[0].full_document[0]",
            "update_lookup",
        ),
        (with("pre_images: 'yes'"), "line 5", "true or false"),
        (
            with("pre_images:"),
            "line 5, column 5",
            "\"pre_images\" has nothing behind it: give it a value or remove it",
        ),
        (
            with("full_document:"),
            "line 5, column 5",
            "\"full_document\" has nothing behind it: give it a value or remove it",
        ),
        (
            with("limits:"),
            "line 5, column 5",
            "\"limits\" has nothing behind it: give it a value or remove it",
        ),
        (
            with("limits: {watches: }"),
            "line 5",
            "\"watches\" has nothing behind it",
        ),
        (
            with("limits: {watch_rate: }"),
            "line 5",
            "\"watch_rate\" has nothing behind it",
        ),
        (
            with("limits: {byte_rate: }"),
            "line 5",
            "\"byte_rate\" has nothing behind it",
        ),
        (
            with("limits: {}"),
            "rules[0].limits",
            "watches, watch_rate or byte_rate",
        ),
        (
            with("claims: {role: }"),
            "line 5",
            "\"role\" has nothing behind it",
        ),
        (
            with("claims: {role: [a, ]}\nfilter: {a: }"),
            "line 6",
            "\"a\" has nothing behind it",
        ),
        (
            with("filter:\n  tenant:\n"),
            "line 6",
            "\"tenant\" has nothing behind it",
        ),
        (with("hide: [a, ~]"), "line 5", ""),
        ("version:\nrules: []".to_owned(), "line 1", ""),
        ("version: 1\nrules:".to_owned(), "line 2", ""),
        (
            "version: 1\nrules: [{name: , namespaces: ['*']}]".to_owned(),
            "line 2",
            "",
        ),
        (
            "version: 1\nrules: [{name: a, namespaces: }]".to_owned(),
            "line 2",
            "",
        ),
        (with("<<: {pre_images: true}"), "line 5", "merge"),
        (with("claims: {<<: {a: b}}"), "line 5", "merge"),
        (with("filter: {$and: [{<<: {a: b}}]}"), "line 5", "merge"),
        (with("name: it"), "line 5", "duplicate"),
        (with("filter: {a: 1, a: 2}"), "line 5", "duplicate"),
        (with("hide: ['']"), "rules[0].hide[0]", "empty"),
        (with("hide: [items.0]"), "rules[0].hide[0]", "number"),
        (
            with("hide: [a, 'card.*']"),
            "rules[0].hide[1]",
            "write card, which hides all below it",
        ),
        (with("hide: ['$card']"), "(rule \"it\")", "write card"),
        (
            with("hide: [a]\noperations: [create]"),
            "rules[0].operations[0]",
            "description",
        ),
        (
            with("hide: [a]\noperations: [insert, other]"),
            "rules[0].operations[1]",
            "description",
        ),
        (with("limits: {watches: -1}"), "line 5", ""),
        (
            with("limits: {watches: 2000000}"),
            "rules[0].limits.watches",
            "1000000",
        ),
        (
            with("limits: {watch_rate: 200000}"),
            "rules[0].limits.watch_rate",
            "100000",
        ),
        (
            with("limits: {byte_rate: 1KiB}"),
            "rules[0].limits.byte_rate",
            "64KiB",
        ),
        (with("limits: {bytes: 1}"), "line 5", "unknown field"),
        (with("filter: {}"), "rules[0].filter", "empty"),
        (with("filter: [a]"), "rules[0].filter", "mapping"),
        (with("filter: {a: {}}"), "rules[0].filter.a", "$eq"),
        (with("filter: {a: [1]}"), "rules[0].filter.a", "$in"),
        (with("filter: {a: {b: 1}}"), "rules[0].filter.a", "paths"),
        (
            with("filter: {a: {$regex: x}}"),
            "rules[0].filter.a",
            "supported operators",
        ),
        (
            with("filter: {a: {$gt: 1, $foo: 2}}"),
            "rules[0].filter.a.$foo",
            "unknown operator",
        ),
        (
            with("filter: {a: {$gt: 1, b: 2}}"),
            "rules[0].filter.a.b",
            "unknown operator",
        ),
        (
            with("filter: {a: {$exists: 1}}"),
            "rules[0].filter.a.$exists",
            "true or false",
        ),
        (
            with("filter: {a: {$in: []}}"),
            "rules[0].filter.a",
            "1 to 1000",
        ),
        (
            with("filter: {a: {$in: x}}"),
            "rules[0].filter.a.$in",
            "list",
        ),
        (
            with("filter: {a: {$in: [[1]]}}"),
            "rules[0].filter.a.$in[0]",
            "list",
        ),
        (
            with("filter: {a: {$eq: {b: 1}}}"),
            "rules[0].filter.a.$eq",
            "paths",
        ),
        (
            with("filter: {a: {$claim: ''}}"),
            "rules[0].filter.a",
            "$claim",
        ),
        (
            with("filter: {a: {$claim: [b]}}"),
            "rules[0].filter.a",
            "$claim",
        ),
        (
            with("filter: {a: {$claim: b, $c: 1}}"),
            "rules[0].filter.a",
            "$claim",
        ),
        (
            with("filter: {a: {$exists: {$claim: b}}}"),
            "rules[0].filter.a.$exists",
            "true or false",
        ),
        (
            with("filter: {a: {$id: 5}}"),
            "rules[0].filter.a",
            "not a well-formed DBRef",
        ),
        (
            with("filter: {a: {$numberDecimal: ''}}"),
            "rules[0].filter.a",
            "is not a decimal number",
        ),
        (
            with("filter: {a: {$oid: xyz}}"),
            "rules[0].filter.a",
            "$oid",
        ),
        (with("filter: {$and: []}"), "rules[0].filter.$and", "empty"),
        (
            with("filter: {$or: {a: 1}}"),
            "rules[0].filter.$or",
            "not a list",
        ),
        (
            with("filter: {$or: [{a: 1}, {}]}"),
            "rules[0].filter.$or[1]",
            "empty",
        ),
        (
            with("filter: {$where: x}"),
            "rules[0].filter.$where",
            "$and, $or and $nor",
        ),
        (
            with("filter: {$claim: x}"),
            "rules[0].filter.$claim",
            "$and, $or and $nor",
        ),
        (
            with("filter: {a..b: 1}"),
            "rules[0].filter.a..b",
            "empty component",
        ),
        (
            with("filter: {a.$b: 1}"),
            "rules[0].filter.a.$b",
            "start with",
        ),
        (
            with("filter: {a: 18446744073709551615}"),
            "rules[0].filter.a",
            "64 bits",
        ),
    ] {
        let problem = match read(&yaml) {
            Ok(_) => "it is accepted".to_owned(),
            Err(problem) => problem,
        };
        let says = |it: &str| problem.to_lowercase().contains(&it.to_lowercase());
        if !says(location) || !says(words) {
            wrong.push(format!("{location:?}, {words:?}: {problem}\n{yaml}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (namespace, words) in [
        ("", "1 to"),
        ("shop", "names no collection"),
        ("shop.", "empty part"),
        (".orders", "empty part"),
        ("shop.$cmd", "contains"),
    ] {
        let yaml = format!("version: 1\nrules: [{{name: a, namespaces: ['a.b', '{namespace}']}}]");
        let problem = read(&yaml).expect_err("not a namespace");
        assert!(problem.starts_with("rules[0].namespaces[1]: "), "{problem}");
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn policies_beyond_the_bounds_are_rejected() {
    let namespaces = "a.b, ".repeat(1_001);
    let yaml = format!("version: 1\nrules: [{{name: a, namespaces: [{namespaces}]}}]");
    assert!(read(&yaml).is_err_and(|it| it.contains("rules[0].namespaces")));
    let rules: String = (0..1_001)
        .map(|it| format!("{{name: r{it}, namespaces: [a.b]}}, "))
        .collect();
    assert!(read(&format!("version: 1\nrules: [{rules}]")).is_err_and(|it| it.contains("1000")));
    let deep = "{$and: [".repeat(11) + "{a: 1}" + &"]}".repeat(11);
    assert!(read(&rule(&format!("filter: {deep}"))).is_err());
    // Would overflow the stack of a parser with unbounded recursion.
    let nested = "[".repeat(100_000);
    assert!(read(&rule(&format!("filter: {nested}"))).is_err());
    let many = (0..201).map(|it| format!("a{it}: 1, ")).collect::<String>();
    assert!(read(&rule(&format!("filter: {{{many}}}"))).is_err_and(|it| it.contains("200")));
    assert!(file::read(b"version: 1\nrules: []\n# \xff", true).is_err());
}

/// MongoDB's own tokens contain document keys.
#[test]
fn filters_and_hidden_fields_require_encrypted_tokens() {
    for (line, location) in [
        ("hide: [ssn]", "rules[0].hide"),
        ("filter: {tenant: a}", "rules[0].filter"),
    ] {
        let yaml = rule(line);
        assert!(file::read(yaml.as_bytes(), true).is_ok());
        let problem = file::read(yaml.as_bytes(), false).expect_err("tokens would reveal keys");
        assert!(problem.starts_with(location), "{problem}");
        assert!(problem.contains("--token-key-file"), "{problem}");
    }
}

/// The first rule that applies decides, so what a later one hides would be shown.
#[test]
fn a_rule_that_an_earlier_one_keeps_from_deciding_is_found() {
    let unused = |first: &str, second: &str| {
        let first = format!("  - {{name: first, {first}}}\n");
        let yaml =
            format!("version: 1\nrules:\n{first}  - {{name: second, {second}, hide: [card]}}\n");
        let policy = Policy::from_text(&yaml);
        policy.rules_without_effect()
    };
    for (first, second) in [
        ("namespaces: [shop.orders]", "namespaces: [shop.orders]"),
        (
            "namespaces: [shop.*]",
            "principals: ['key:a'], namespaces: [shop.orders, 'shop.in*']",
        ),
        (
            "namespaces: ['*']",
            "claims: {tenant: a}, namespaces: ['shop.*']",
        ),
        ("namespaces: ['s*.*', crm.a]", "namespaces: [crm.a, shop.b]"),
        (
            "principals: ['key:a*'], namespaces: [shop.orders]",
            "principals: ['key:ab', 'key:a*b'], namespaces: [shop.orders]",
        ),
        (
            "claims: {tenant: '*'}, namespaces: [shop.orders]",
            "claims: {tenant: [a, b], role: c}, namespaces: [shop.orders]",
        ),
        (
            "claims: {tenant: a}, filter: {b: {$claim: other}}, namespaces: [shop.orders]",
            "claims: {tenant: a}, namespaces: [shop.orders]",
        ),
    ] {
        let found = unused(first, second);
        let words = "rules[1] (\"second\") never decides, because rules[0] (\"first\") comes first and applies to all of its callers and namespaces";
        assert_eq!(found, [words], "{first}; {second}");
    }
    for (first, second) in [
        (
            "namespaces: [shop.orders]",
            "namespaces: [shop.orders, shop.invoices]",
        ),
        ("namespaces: [shop.orders]", "namespaces: ['shop.*']"),
        ("namespaces: ['shop.*']", "namespaces: ['*']"),
        ("namespaces: ['shop.a*']", "namespaces: ['shop.*a']"),
        (
            "principals: ['key:a'], namespaces: [shop.orders]",
            "namespaces: [shop.orders]",
        ),
        (
            "principals: ['key:a'], namespaces: [shop.orders]",
            "principals: ['jwt:a'], namespaces: [shop.orders]",
        ),
        (
            "principals: ['key:a'], namespaces: [shop.orders]",
            "principals: ['key:a', 'key:b'], namespaces: [shop.orders]",
        ),
        (
            "claims: {tenant: a}, namespaces: [shop.orders]",
            "claims: {tenant: '*'}, namespaces: [shop.orders]",
        ),
        (
            "claims: {tenant: a}, namespaces: [shop.orders]",
            "claims: {role: a}, namespaces: [shop.orders]",
        ),
        (
            "claims: {tenant: [a, b]}, namespaces: [shop.orders]",
            "namespaces: [shop.orders]",
        ),
    ] {
        assert!(unused(first, second).is_empty(), "{first}; {second}");
    }
}

/// A rule that never decides leaves its callers to a later one, which may show more.
#[test]
fn patterns_that_match_nothing_are_refused() {
    let long = |count| "a".repeat(count);
    for (key, entry, words) in [
        ("principals", "key: a".to_owned(), "write \"key:a\""),
        ("principals", "jwt:a ".to_owned(), "write \"jwt:a\""),
        ("principals", "jwt:* ".to_owned(), "write \"jwt:*\""),
        ("principals", "cert:\u{a0}a".to_owned(), "write \"cert:a\""),
        ("principals", " key:a".to_owned(), "use key:a;"),
        ("principals", "key :a".to_owned(), "use key:a;"),
        ("principals", "Key:a".to_owned(), "use key:a;"),
        ("principals", "user:a".to_owned(), "use jwt:NAME"),
        ("principals", "key:".to_owned(), "use jwt:NAME"),
        ("principals", "key: ".to_owned(), "use jwt:NAME"),
        ("principals", "anonymous ".to_owned(), "use anonymous;"),
        ("principals", "anonymous:a".to_owned(), "use anonymous;"),
        ("principals", "jwt:a\tb".to_owned(), "'\\t'"),
        ("principals", "cert:a b".to_owned(), "printable ASCII"),
        ("principals", "cert:ä".to_owned(), "printable ASCII"),
        ("namespaces", "shop. orders".to_owned(), "write \"orders\""),
        ("namespaces", "shop.orders ".to_owned(), "write \"orders\""),
        ("namespaces", " shop.orders".to_owned(), "write \"shop\""),
        ("namespaces", "shop.orders\u{200b}".to_owned(), "invisible"),
        ("namespaces", "shop.or\tders".to_owned(), "invisible"),
        ("namespaces", "sh op.orders".to_owned(), "contains ' '"),
        ("namespaces", "shop?.orders".to_owned(), "contains '?'"),
        ("namespaces", "shop/eu.orders".to_owned(), "contains '/'"),
        ("namespaces", "shop|crm.orders".to_owned(), "contains '|'"),
        (
            "namespaces",
            "shop.or,d".to_owned(),
            "an entry for each; where",
        ),
        (
            "namespaces",
            "shop.{a,b}".to_owned(),
            "an entry for each; where",
        ),
        (
            "namespaces",
            "shop.a|b".to_owned(),
            "an entry for each; where",
        ),
        (
            "namespaces",
            "{a,b}.*".to_owned(),
            "contains '{' in its database",
        ),
        ("namespaces", "shop.[ab]".to_owned(), "or * in place"),
        (
            "namespaces",
            "shop.?".to_owned(),
            "* in place of the character",
        ),
        ("namespaces", "shop.a?".to_owned(), "before it: \\?"),
        ("namespaces", "shop.or\u{2028}d".to_owned(), "invisible"),
        ("namespaces", "shop.or\u{61c}d".to_owned(), "invisible"),
        ("namespaces", "shop..orders".to_owned(), "starts with a dot"),
        ("namespaces", "shop.**".to_owned(), "several * in a row"),
        ("namespaces", "s**.a".to_owned(), "several * in a row"),
        (
            "namespaces",
            "shop.orders.".to_owned(),
            "ends with a dot (write \"orders\"",
        ),
        ("namespaces", "$shop.orders".to_owned(), "contains '$'"),
        ("namespaces", "shop.$cmd".to_owned(), "contains '$'"),
        ("namespaces", "admin.*".to_owned(), "system database"),
        ("namespaces", "config.orders".to_owned(), "system database"),
        (
            "namespaces",
            "shop.system.views".to_owned(),
            "own collections",
        ),
        ("namespaces", "shop.system.*".to_owned(), "own collections"),
        ("namespaces", format!("{}.*", long(64)), "at most 63"),
        (
            "namespaces",
            format!("{}*{}.*", long(32), long(32)),
            "at most 63",
        ),
        ("namespaces", format!("shop.*{}", long(251)), "at most 255"),
        ("claims", "{' role': a}".to_owned(), "write \"role\""),
        (
            "claims",
            "{\"ro\\nle\": a}".to_owned(),
            "control characters",
        ),
        ("claims", "{'': a}".to_owned(), "is empty"),
        (
            "filter",
            "{a: {$claim: 'team '}}".to_owned(),
            "write \"team\"",
        ),
    ] {
        let (line, at) = match key {
            "claims" | "filter" => (format!("{key}: {entry}"), format!("rules[0].{key}: ")),
            _ => {
                let entry = serde_json::to_string(&entry).expect("a text");
                (format!("{key}: [{entry}]"), format!("rules[0].{key}[0]: "))
            }
        };
        let yaml = match key {
            "namespaces" => format!("version: 1\nrules: [{{name: it, {line}}}]"),
            _ => rule(&line),
        };
        let problem = read(&yaml).expect_err(&yaml);
        assert!(problem.starts_with(&at), "{entry}: {problem}");
        assert!(problem.contains(words), "{entry}: {problem}");
        assert!(problem.ends_with("(rule \"it\")"), "{problem}");
        assert!(!problem.contains(char::is_control), "{problem:?}");
    }
    for (line, is_right) in [
        ("principals: ['anonymous']\nclaims: {role: a}", false),
        (
            "principals: ['anonymous']\nfilter: {a: {$claim: role}}",
            false,
        ),
        ("principals: ['cert:*']\nclaims: {role: a}", false),
        (
            "principals: ['cert:*', anonymous]\nfilter: {a: {$claim: role}}",
            false,
        ),
        ("principals: ['cert:*']\nclaims: {san_dns: a}", true),
        ("principals: ['cert:*', 'key:a']\nclaims: {role: a}", true),
        ("principals: ['jwt:a']\nfilter: {a: {$claim: role}}", true),
        ("claims: {role: a}", true),
    ] {
        let read = read(&rule(line));
        assert_eq!(read.is_ok(), is_right, "{line}: {read:?}");
        assert!(is_right || read.is_err_and(|it| it.contains("can have the claim \"role\"")));
    }
}

#[test]
fn patterns_that_can_match_are_accepted() {
    let long = |count| "a".repeat(count);
    for namespace in [
        "*",
        "*.*",
        "shop.*",
        "*.orders",
        "a*.b",
        "shop.a b",
        "shop.orders.*",
        "shop.a.b",
        "shop.*.orders",
        "shop.sys*",
        "shop.sys*tem.x",
        "shop.system*",
        "shop.*system.views",
        "adm*.x",
        "admin*.x",
        "*admin.x",
        "administration.*",
        "shop.Ünï*",
        &format!("{}.*", long(63)),
        &format!("{}*.*", long(63)),
        &format!("{}*.*{}", long(62), long(192)),
        &format!("s.{}", "*a".repeat(200)),
    ] {
        let yaml = format!("version: 1\nrules: [{{name: it, namespaces: ['{namespace}']}}]");
        assert!(read(&yaml).is_ok(), "{namespace}: {:?}", read(&yaml));
    }
    for principal in [
        "anonymous",
        "key:*",
        "key:a b",
        "key:a:b",
        "jwt:* x *",
        "jwt:ä@shop",
        "jwt:system:serviceaccount:ns:sa",
        "cert:spiffe://mesh/ns/*",
        "cert:*@shop.example",
    ] {
        let yaml = rule(&format!("principals: ['{principal}']"));
        assert!(read(&yaml).is_ok(), "{principal}: {:?}", read(&yaml));
    }
}

/// The values of claims are what they seem to be, on either side.
#[test]
fn names_and_values_are_the_texts_that_are_written() {
    for text in [
        "no",
        "on",
        "010",
        "0x1F",
        "1e3",
        "2027-01-31",
        "yes",
        "1_000",
    ] {
        let yaml = format!(
            "version: 1\nrules: [{{name: {text}, principals: ['key:{text}'], namespaces: [{text}.{text}], hide: [{text}]}}]"
        );
        let rules = read(&yaml).expect(text);
        assert_eq!(rules[0].name, text);
        assert_eq!(rules[0].field_mask.hidden_paths(), [text]);
    }
    let rules = read(&rule("claims: {no: [no, on, 010, 1_000, 2027-01-31]}")).expect("a rule");
    let texts = ["no", "on", "010", "1_000", "2027-01-31"]
        .map(Into::into)
        .to_vec();
    let expected = ("no".to_owned(), rules::ClaimRequirement::OneOf(texts));
    assert_eq!(rules[0].claims, [expected]);
}
