package config

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

const (
	// maxFile bounds the file. Real ones have two kilobytes.
	maxFile = 1 << 20
	// maxValues bounds all values together: A=$B$B doubles with each line.
	maxValues = 2 * maxFile
)

// assignment is one KEY=value, evaluated.
type assignment struct {
	line       int
	key, value string
	extends    bool // the value holds $KEY itself: A="$A more"
	// bad: it was refused, which is reported once. unread: the value is none that this file may have, which
	// does not matter as long as no other key uses it.
	bad, unread bool
}

// shell reads the assignments of a file: what a shell would do with them, and nothing else. It knows what
// all shells read alike: KEY=value, quotes, backslashes, comments, semicolons, $KEY and export. Where a
// shell would see anything else, the file is refused.
type shell struct {
	*problems
	text string                // what is still to be read
	line int                   // where that begins
	vars map[string]assignment // the last of each key
	used map[string]bool       // keys that another key's value refers to
	size int                   // of all values
	out  []assignment
}

// readShell returns the assignments in src in their order.
func readShell(src []byte, p *problems) *shell {
	s := &shell{problems: p, line: 1, vars: make(map[string]assignment), used: make(map[string]bool)}
	var ok bool
	s.text, ok = s.clean(src)
	s.unread = !ok
	for s.text != "" && !s.unread {
		s.statement()
		s.unread = s.full()
	}
	return s
}

// lineEnd is the end of a line as editors of other systems write it.
var lineEnd = regexp.MustCompile(`\r+(\n|$)`)

// clean undoes what editors of other systems do to a file, and refuses what is no text.
func (s *shell) clean(src []byte) (text string, ok bool) {
	text = lineEnd.ReplaceAllString(strings.TrimPrefix(string(src), "\ufeff"), "$1")
	switch {
	case len(src) > maxFile:
		s.errorf(0, "", "larger than %d bytes: this is not a threatstop.conf", maxFile)
	case strings.Contains(text, "\x00"):
		s.errorf(1+strings.Count(text[:strings.Index(text, "\x00")], "\n"), "", "a NUL byte: save the file as UTF-8 or ASCII text")
	default:
		// Comments of old files may be in any character set. A value with the replacement character is
		// refused later.
		return strings.ToValidUTF8(text, string(utf8.RuneError)), true
	}
	return "", false
}

// advance goes n bytes further.
func (s *shell) advance(n int) {
	s.line += strings.Count(s.text[:n], "\n")
	s.text = s.text[n:]
}

var (
	blankForm = regexp.MustCompile(`^(?:[ \t]|\\\n)*(?:#[^\n]*)?`)
	keyForm   = regexp.MustCompile(`^[ \t]*(?:export[ \t]+)?([A-Za-z_]\w*)=`)
	paramForm = regexp.MustCompile(`^\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})`)
	// assigning is a substitution that sets another key.
	assigning = regexp.MustCompile(`\$\{\w+:?=|\$\(\(.*(=|\+\+|--)`)
)

// special are the characters that, unquoted, end a value and begin something else.
const special = "&|<>()"

func unquoted(c byte) string { return fmt.Sprintf("an unquoted %c ends the value", c) }

// lineKey returns the key that text assigns at its beginning, and the length of it all with the =.
func lineKey(text string) (key string, n int) {
	if m := keyForm.FindStringSubmatch(text); m != nil {
		return m[1], len(m[0])
	}
	return "", 0
}

// statement reads the assignments up to the next newline or semicolon. After an error it skips the line.
func (s *shell) statement() {
	key, from := "", "" // the last assignment, and the text from there on
	for first := true; ; first = false {
		s.advance(len(blankForm.FindString(s.text)))
		next, n := lineKey(s.text)
		switch {
		case s.text == "":
			return
		case s.text[0] == '\n', s.text[0] == ';' && !first:
			s.advance(1)
			return
		case n > 0:
			key, from = next, s.text[n-len(next)-1:]
			if s.advance(n); !s.assign(key, from) {
				return
			}
			continue
		}
		word, _, _ := strings.Cut(s.text, "\n")
		word, _, _ = strings.Cut(word, " ")
		what := brief(word) + " is no assignment"
		switch {
		case key == "":
		case strings.IndexByte(special, s.text[0]) >= 0:
			what = unquoted(s.text[0])
		default:
			what = s.show(key, word) + " behind the blank is a command to a shell"
		}
		s.refuse(s.line, key, what+advice(key, from))
		return
	}
}

// refuse reports an error, for a key whose value is thereby not known, and skips the rest of the line.
func (s *shell) refuse(line int, key, text string) {
	if key != "" {
		s.vars[key] = assignment{line: line, bad: true}
	}
	if text != "" {
		s.errorf(line, key, "%s", text)
	}
	rest, _, _ := strings.Cut(s.text, "\n")
	s.advance(min(len(rest)+1, len(s.text)))
}

// A fault is what is wrong with a value.
type fault struct {
	at       int    // where in the text
	text     string // empty: it uses a key whose own assignment was refused, and reported
	quotable bool   // quotes around the value remove it
	stop     bool   // where the value ends is not known
}

// assign evaluates the value of a key, at the beginning of the text; from is the text from the key on. It
// returns false if it refuses the value.
func (s *shell) assign(key, from string) bool {
	a, text, k := assignment{line: s.line, key: key}, s.text, find(key)
	n, f := s.value(&a)
	s.advance(n)
	switch {
	case f == nil:
		s.size += len(a.value)
	case !f.stop && (k == nil || k.unused) && !assigning.MatchString(text[:n]):
		a.value, a.unread = "", true
	default:
		if f.quotable {
			f.text += advice(key, from)
		}
		s.refuse(a.line+strings.Count(text[:f.at], "\n"), key, f.text)
		return false
	}
	if before, again := s.vars[key]; again && !before.bad && k != nil && !a.extends {
		s.warnf(false, a.line, key, "set again: this replaces the value of line %d", before.line)
	}
	s.vars[key] = a
	s.out = append(s.out, a)
	return true
}

// value evaluates the value at the beginning of the text into a, and returns its length, as far as it can
// be read. An assignment undergoes neither field splitting nor pathname expansion (POSIX, Shell Command
// Language, 2.9.1), so that blanks from $KEY, * and ? stay as they are.
func (s *shell) value(a *assignment) (n int, found *fault) {
	var b strings.Builder
	fail := func(f fault) {
		if found == nil || f.stop {
			found = &f
		}
	}
	text, open := s.text, 0
	var quote byte
	for i := 0; ; i++ {
		// A quote that is not closed takes the rest of the file with it, and the next quote, meant to
		// open, closes it. So it must be closed before a line that assigns a known key: no value holds one.
		end := i == len(text)
		if !end && quote != 0 && text[i] == '\n' {
			next, _ := lineKey(text[i+1:])
			end = find(next) != nil
		}
		switch {
		case quote == 0 && (end || strings.IndexByte(" \t\n;", text[i]) >= 0):
			a.value = b.String()
			return i, found
		case end:
			return open, &fault{at: open, stop: true, text: fmt.Sprintf(
				"the quote %c that opens here is not closed on this line: put another at the end of the value", quote)}
		}
		switch c := text[i]; {
		case c == quote:
			quote = 0
		case quote == '\'':
			b.WriteByte(c)
		case quote == 0 && (c == '"' || c == '\''):
			quote, open = c, i
		case quote == 0 && strings.IndexByte(special, c) >= 0:
			return i, &fault{at: i, text: unquoted(c), quotable: true, stop: true}
		case quote == 0 && c == '~' && (i == 0 || text[i-1] == ':' || text[i-1] == '\n'): // POSIX, 2.6.1
			fail(fault{at: i, text: "an unquoted ~ is a home directory to a shell", quotable: true})
		case c == '\\' && i+1 < len(text):
			i++
			// Outside quotes it quotes any character, inside double quotes these four (POSIX, 2.2).
			if quote != 0 && strings.IndexByte("$`\"\\\n", text[i]) < 0 {
				b.WriteByte('\\')
			}
			if text[i] != '\n' {
				b.WriteByte(text[i])
			}
		case c == '$' || c == '`':
			value, length, f := s.substitute(a, text[i:], quote)
			if s.size+b.Len()+len(value) > maxValues {
				f = &fault{text: fmt.Sprintf("the values of all keys come to more than %d bytes", maxValues)}
			}
			if f != nil {
				f.at = i
				fail(*f)
			} else {
				b.WriteString(value)
			}
			if i += length - 1; length == 0 {
				return i + 1, found
			}
		default:
			b.WriteByte(c)
		}
	}
}

// substitute returns what a shell puts in place of the $ or ` at the beginning of text, and the length of
// what it replaces, 0 if that does not end on its line.
func (s *shell) substitute(a *assignment, text string, quote byte) (string, int, *fault) {
	if m := paramForm.FindStringSubmatch(text); m != nil {
		value, f := s.param(a, m[1]+m[2])
		return value, len(m[0]), f
	}
	next := (text + "\n")[1]
	switch {
	case text[0] == '`':
	case quote == 0 && (next == '"' || next == '\''):
		return "", 1, &fault{text: "a $ before a quote is read differently by different shells", quotable: true}
	case strings.IndexByte("({[@*#?$!-\\0123456789", next) < 0:
		return "$", 1, nil
	}
	n := substitution(text)
	what := "is more than $KEY or ${KEY} of a key set further up"
	switch {
	case n == 0:
		what = "is not closed on this line"
	case text[0] == '`', next == '(' && text[2] != '(':
		what = "would run a command, and nothing is run from this file"
	}
	return "", n, &fault{stop: n == 0, text: fmt.Sprintf("%s %s: write the value itself, in single quotes if it is meant literally",
		s.show(a.key, text[:cmp.Or(n, len(text))]), what)}
}

// substitution returns the length of the $(…), ${…}, $x or `…` at the beginning of text, 0 if it does not
// end on its line. One that has brackets in quotes may end too early, so that the rest is refused.
func substitution(text string) int {
	line, _, _ := strings.Cut(text, "\n")
	next := (text + "\n")[1]
	opens, closes := next, map[byte]byte{'(': ')', '{': '}', '[': ']'}[next]
	if text[0] == '`' {
		opens, closes = 0, '`'
	} else if closes == 0 {
		return 2
	}
	depth := 0
	for i, c := range []byte(line) {
		switch {
		case i > 0 && c == closes && depth <= 1:
			return i + 1
		case c == closes:
			depth--
		case c == opens:
			depth++
		}
	}
	return 0
}

// param returns the value of $KEY.
func (s *shell) param(a *assignment, name string) (string, *fault) {
	v, set := s.vars[name]
	text := ""
	switch {
	case v.bad:
	case v.unread:
		text = fmt.Sprintf("$%s has no plain value (line %d): write its value here", brief(name), v.line)
	case !set:
		there := "set it there"
		if k := find(name); k != nil && k.Default != "" {
			there = "put " + name + "=" + strings.ReplaceAll(k.Default, "$OUT_DIR", find("OUT_DIR").Default) + " there"
		}
		text = fmt.Sprintf("$%s is not set above this line: %s, or write its value here", brief(name), there)
	default:
		a.extends = a.extends || name == a.key
		s.used[name] = true
		return v.value, nil
	}
	return "", &fault{text: text}
}

// show returns a part of a key's value for an error, unless it may hold a secret.
func (s *shell) show(key, part string) string {
	if k := find(key); k != nil && k.shown != nil {
		return "a part of the value"
	}
	return brief(part)
}

// advice completes the error of an assignment that a shell would read as something else: it returns how to
// write the value, as far as that is known to be accepted and holds no secret. rest is the text from KEY= on.
func advice(key, rest string) string {
	if key == "" {
		return ": only assignments KEY=value, without blanks around =, are read from this file"
	}
	value, _, _ := strings.Cut(rest[len(key)+1:], "\n")
	value, _, _ = strings.Cut(value, " #")
	value = strings.Trim(value, " \t;")
	k := find(key)
	switch {
	case value == "", len(value) > 100, strings.ContainsAny(value, "'\"\\"),
		k != nil && k.shown != nil && (value != hidden(value) || strings.Count(value, ":") > 1):
		return ": put the value in single quotes"
	case k != nil && (unprintable(value, k.list) != nil || k.try(value) != nil):
		return "; allowed: " + k.Allowed
	}
	return ": put the value in single quotes, " + key + "='" + value + "'"
}

// brief returns text for an error: one line, not too long.
func brief(text string) string {
	const most = 80
	short, _, _ := strings.Cut(text, "\n")
	if len(short) > most {
		short = strings.ToValidUTF8(short[:most], "")
	}
	if short != text {
		short += "…"
	}
	return short
}
