use super::*;

#[derive(Debug, Default, PartialEq)]
struct Sample {
    name: Option<String>,
    count: Option<u64>,
    ports: Vec<u16>,
    parts: Vec<String>,
}

const SAMPLE: &[Key<Sample>] = &[
    Key::required("name", "name = \"x\"", |s, v, _| {
        s.name = Some(v.text()?.into());
        Ok(())
    }),
    Key::optional("count", |s, v, _| {
        s.count = Some(v.number(1..=10)?);
        Ok(())
    }),
    Key::optional("ports", |s, v, _| {
        s.ports = v.list()?;
        Ok(())
    }),
    Key::optional("part", |s, v, r| {
        for section in v.sections("[[part]]")? {
            let mut part = Sample::default();
            r.fill(&section, &SAMPLE[..1], &mut part);
            s.parts.extend(part.name);
        }
        Ok(())
    }),
];

fn read(text: &str) -> Result<Sample, Vec<String>> {
    parse(Path::new("a.toml"), text, Keys::Files, |reader, root| {
        let mut sample = Sample::default();
        reader.fill(root, SAMPLE, &mut sample);
        Some(sample)
    })
    .map(|loaded| loaded.value)
    .map_err(|invalid| invalid.problems.iter().map(Remark::to_string).collect())
}

#[test]
fn every_key_is_read() {
    let sample =
        read("name='n'\ncount=0xA\nports='1, 2'\n[[part]]\nname='p'\n[[part]]\nname='q'").unwrap();
    assert_eq!(
        sample,
        Sample {
            name: Some("n".into()),
            count: Some(10),
            ports: vec![1, 2],
            parts: vec!["p".into(), "q".into()],
        }
    );
    assert_eq!(read("name='n'\nports=['1', 2]").unwrap().ports, [1, 2]);
}

#[test]
fn all_problems_are_told_in_the_order_of_the_file() {
    let problems =
        read("prots = 1\ncount = 11\nports = ['1',\n  'x']\n\n[[part]]\nnmae = 'p'").unwrap_err();
    assert_eq!(
        problems,
        [
            r#"a.toml:1:1: unknown key "prots": did you mean "ports"?"#,
            r#"a.toml:1:1: the file has no "name", for example: name = "x""#,
            "a.toml:2:9: count: 11 is outside 1 to 10",
            "a.toml:4:3: ports: invalid digit found in string",
            r#"a.toml:6:1: [[part]] has no "name", for example: name = "x""#,
            r#"a.toml:7:1: unknown key "nmae": did you mean "name"?"#,
        ]
    );
}

#[test]
fn wrong_types_say_what_is_expected() {
    assert_eq!(
        read("name = 1\ncount = 'x'\nports = true\npart = 1").unwrap_err(),
        [
            "a.toml:1:8: name: expected a string in quotes, found a whole number",
            "a.toml:2:9: count: expected a whole number, found a string",
            "a.toml:3:9: ports: expected a string in quotes, or a list of them, found true or false",
            "a.toml:4:8: part: expected tables, each [[part]], found a whole number",
        ]
    );
}

#[test]
fn a_syntax_error_hides_no_other_problem() {
    let problems = read("name = \ncount = 11").unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("a.toml:1:"), "{problems:?}");
    assert_eq!(problems[1], "a.toml:2:9: count: 11 is outside 1 to 10");
}

#[test]
fn columns_count_characters() {
    let problems = read("name = 'n'\nports = ['ä', 1]").unwrap_err();
    assert_eq!(
        problems,
        ["a.toml:2:10: ports: invalid digit found in string"]
    );
    let problems = read("part = [{name='ü'}, {name=1}]\nname='n'").unwrap_err();
    assert_eq!(
        problems,
        ["a.toml:1:27: name: expected a string in quotes, found a whole number"]
    );
}

#[test]
fn a_key_far_from_any_lists_what_there_is() {
    assert_eq!(
        read("name='n'\nzzzzz=1").unwrap_err(),
        [r#"a.toml:2:1: unknown key "zzzzz": known here are name, count, ports, part"#]
    );
    assert!(read(&format!("name='n'\n{}=1", "n".repeat(100_000))).is_err());
}

#[test]
fn large_files_and_hostile_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.toml");
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    let invalid = load(&path, "init", |_, _| Some(())).unwrap_err();
    assert!(invalid.to_string().contains("larger than 1048576 bytes"));
    std::fs::write(&path, b"name = \"\xff\"").unwrap();
    assert!(
        load(&path, "init", |_, _| Some(()))
            .unwrap_err()
            .to_string()
            .contains("UTF-8")
    );
    assert!(load(dir.path(), "init", |_, _| Some(())).is_err());
    let missing = load(&dir.path().join("none"), "init", |_, _| Some(())).unwrap_err();
    let missing = missing.to_string();
    assert!(missing.starts_with("error: "), "{missing}");
    assert!(missing.contains("init makes one"), "{missing}");
    for text in [
        "=".repeat(5000),
        "[".repeat(100_000),
        "a.".repeat(50_000),
        "x=[".repeat(10_000),
    ] {
        assert!(read(&text).is_err());
    }
    assert!(read(&"a=1\n".repeat(5000)).is_err());
}

#[test]
fn numbers_are_shown_short_and_without_control_characters() {
    let long = read(&format!("name='n'\ncount={}", "1".repeat(10_000))).unwrap_err();
    assert_eq!(long.len(), 1);
    assert!(long[0].ends_with("1 is outside 1 to 10"), "{long:?}");
    assert!(long[0].len() < 200, "{long:?}");
    assert_eq!(shown("30puz\0\x1b[2Jlay"), "30puz\\0\\u{1b}[2Jlay");
}

#[test]
fn of_a_damaged_line_the_syntax_error_is_told_wherever_it_stands() {
    // The number is outside its bounds too, and stands before what is wrong with the line.
    let problems = read("name='n'\ncount=30puz\0\0lay = 7\n").unwrap_err();
    let [problem] = &problems[..] else {
        panic!("{problems:?}");
    };
    assert!(!problem.contains("outside"), "{problem}");
    assert!(!problem.chars().any(char::is_control), "{problem:?}");
}

#[test]
fn many_problems_are_cut_off() {
    let lines: String = (0..500).map(|i| format!("key{i} = 1\n")).collect();
    let shown = parse(Path::new("a.toml"), &lines, Keys::Files, |reader, root| {
        let mut sample = Sample::default();
        reader.fill(root, SAMPLE, &mut sample);
        Some(sample)
    })
    .unwrap_err()
    .to_string();
    assert!(shown.ends_with("\nand 401 more"), "{shown}");
}
