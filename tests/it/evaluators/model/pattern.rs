//! Patterns of the simplest kind. What MongoDB's engine makes of others is tested elsewhere.

/// Returns whether a text holds a match of a pattern: alternatives of characters, `.`, `^` and `$`. `options` are of
/// "ims".
pub fn is_match(pattern: &str, options: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    pattern.split('|').any(|alternative| {
        let parts = parts(alternative);
        (0..=text.len()).any(|start| matches_at(&parts, options, &text, start))
    })
}

enum Part {
    Start,
    End,
    Any,
    Character(char),
}

fn parts(alternative: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut characters = alternative.chars();
    while let Some(character) = characters.next() {
        parts.push(match character {
            '^' => Part::Start,
            '$' => Part::End,
            '.' => Part::Any,
            '\\' => match characters.next() {
                Some('x') => {
                    let digits: String = characters.by_ref().take(2).collect();
                    let number = u8::from_str_radix(&digits, 16).expect("two digits");
                    Part::Character(number.into())
                }
                Some(escaped) if escaped.is_ascii_punctuation() => Part::Character(escaped),
                other => panic!("the model does not know \\{other:?}"),
            },
            other => Part::Character(other),
        });
    }
    parts
}

fn matches_at(parts: &[Part], options: &str, text: &[char], mut at: usize) -> bool {
    let has = |option: char| options.contains(option);
    for part in parts {
        let fits = match part {
            Part::Start => {
                let is_new_line = at > 0 && at < text.len() && text[at - 1] == '\n';
                at == 0 || (has('m') && is_new_line)
            }
            Part::End => {
                let is_line_end = text.get(at) == Some(&'\n') && (has('m') || at + 1 == text.len());
                at == text.len() || is_line_end
            }
            Part::Any => text.get(at).is_some_and(|it| *it != '\n' || has('s')),
            Part::Character(character) => text.get(at).is_some_and(|it| {
                it == character || (has('i') && it.to_lowercase().eq(character.to_lowercase()))
            }),
        };
        if !fits {
            return false;
        }
        at += usize::from(matches!(part, Part::Any | Part::Character(_)));
    }
    true
}
