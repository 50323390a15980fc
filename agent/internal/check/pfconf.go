package check

import (
	"fmt"
	"strconv"
	"strings"

	"example.org/threatstopd/agent/internal/rules"
	"example.org/threatstopd/pfioctl"
)

// A pfConf is what the text of pf.conf says of tables and limits. It is not
// parsed beyond that: what comes by a macro or an include is not known.
type pfConf struct {
	tables   []tableLine
	limits   []limitLine
	includes int  // first line that includes another file, 0 for none
	named    int  // first table line whose name is a macro, 0 for none
	broken   bool // a quote or a brace that is not closed: what follows is not known
}

// A tableLine is `table <name> …`.
type tableLine struct {
	line           int
	name           string
	persist, fixed bool // fixed: const
	files          []string
	macro          bool // a $macro is in it
}

// A limitLine is one limit of `set limit …`; its value is -1 where a macro has it.
type limitLine struct {
	line  int
	name  string
	value int
}

// A token is a word of pf.conf. Quotes are taken off.
type token struct {
	text   string
	quoted bool
}

// is reports whether the token is a word of pf.conf's grammar.
func (t token) is(word string) bool { return !t.quoted && t.text == word }

// scanPfConf reads the statements of pf.conf (pfctl's parse.y: yylex): words, quoted
// strings, comments to the end of the line, lines that go on behind a backslash, and
// lists in braces that do.
func scanPfConf(text string) pfConf {
	var c pfConf
	s := pfScanner{text: text, line: 1}
	for {
		start, words, ok := s.statement()
		if len(words) > 0 {
			c.statement(start, words)
		}
		if !ok {
			c.broken = s.broken
			return c
		}
	}
}

type pfScanner struct {
	text   string
	at     int
	line   int
	broken bool
}

// statement returns the words up to the end of a line that is outside of braces,
// and the line they begin on. It is false at the end of the text.
func (s *pfScanner) statement() (start int, words []token, ok bool) {
	depth := 0
	for s.at < len(s.text) {
		switch ch := s.text[s.at]; {
		case ch == '\n':
			s.at++
			s.line++
			if depth <= 0 {
				return start, words, true
			}
		case ch == ' ' || ch == '\t' || ch == '\r' || ch == ',':
			s.at++
		case ch == '\\' && strings.HasPrefix(s.text[s.at+1:], "\n"):
			s.at += 2
			s.line++
		case ch == '#':
			s.comment()
		default:
			if len(words) == 0 {
				start = s.line
			}
			t := s.token()
			words = append(words, t)
			if t.is("{") {
				depth++
			} else if t.is("}") {
				depth--
			}
		}
	}
	s.broken = s.broken || depth > 0
	return start, words, false
}

// comment skips a comment, which a backslash at the end of its line continues.
func (s *pfScanner) comment() {
	for s.at < len(s.text) && s.text[s.at] != '\n' {
		if s.text[s.at] == '\\' && strings.HasPrefix(s.text[s.at+1:], "\n") {
			s.at++
			s.line++
		}
		s.at++
	}
}

func (s *pfScanner) token() token {
	ch := s.text[s.at]
	if ch == '"' || ch == '\'' {
		var b strings.Builder
		for s.at++; s.at < len(s.text); s.at++ {
			switch c := s.text[s.at]; {
			case c == ch:
				s.at++
				return token{b.String(), true}
			case c == '\n':
				s.line++ // in a string a line end counts for nothing
			default:
				b.WriteByte(c)
			}
		}
		s.broken = true
		return token{b.String(), true}
	}
	if strings.IndexByte("{}()<>=!", ch) >= 0 {
		s.at++
		return token{string(ch), false}
	}
	from := s.at
	for s.at < len(s.text) && strings.IndexByte(" \t\r\n,#\"'{}()<>=!", s.text[s.at]) < 0 {
		if s.text[s.at] == '\\' && strings.HasPrefix(s.text[s.at+1:], "\n") {
			break
		}
		s.at++
	}
	return token{s.text[from:s.at], false}
}

// statement takes up one that is about a table, a limit or an include.
func (c *pfConf) statement(line int, w []token) {
	switch {
	case w[0].is("include"):
		if c.includes == 0 {
			c.includes = line
		}
	case w[0].is("table"):
		c.table(line, w[1:])
	case len(w) > 1 && w[0].is("set") && w[1].is("limit"):
		c.limit(line, w[2:])
	}
}

func (c *pfConf) table(line int, w []token) {
	if len(w) < 3 || !w[0].is("<") || !w[2].is(">") {
		return
	}
	if strings.HasPrefix(w[1].text, "$") && c.named == 0 {
		c.named = line
	}
	t := tableLine{line: line, name: w[1].text}
	depth := 0
	for i, x := range w[3:] {
		switch {
		case x.is("{"):
			depth++
		case x.is("}"):
			depth--
		case !x.quoted && strings.HasPrefix(x.text, "$"):
			t.macro = true
		case depth > 0:
		case x.is("persist"):
			t.persist = true
		case x.is("const"):
			t.fixed = true
		case i > 0 && w[3:][i-1].is("file"):
			t.files = append(t.files, x.text)
		}
	}
	c.tables = append(c.tables, t)
}

// limit reads `table-entries 400000` and `{ states 20000, table-entries 400000 }`.
func (c *pfConf) limit(line int, w []token) {
	for len(w) > 1 {
		if w[0].is("{") || w[0].is("}") {
			w = w[1:]
			continue
		}
		value, err := strconv.Atoi(w[1].text)
		if err != nil || value < 0 {
			value = -1
		}
		c.limits = append(c.limits, limitLine{line, w[0].text, value})
		w = w[2:]
	}
}

// A definition is a table as pf.conf has to define it.
type definition struct {
	table pfioctl.Table
	file  string
	need  bool // rules depend on it; else it is only of use
}

func (d *definition) line() string {
	return fmt.Sprintf("table <%s> persist file %q", d.table.Name, d.file)
}

// judgePfConf looks at the lines of pf.conf about tables. What limit they need
// is told with the headroom, by the numbers.
func judgePfConf(path, text string, tables []definition) []rules.Finding {
	c := scanPfConf(text)
	var out []rules.Finding
	say := func(l rules.Level, do []string, format string, args ...any) {
		out = append(out, rules.Finding{Level: l, Text: fmt.Sprintf(format, args...), Do: do})
	}
	first := 0 // line of the first table line
	for _, t := range c.tables {
		if first == 0 || t.line < first {
			first = t.line
		}
	}
	for _, d := range tables {
		var lines []tableLine
		for _, t := range c.tables {
			if t.name == d.table.Name {
				lines = append(lines, t)
			}
		}
		if len(lines) == 0 {
			switch {
			case !d.need:
			case c.broken:
				say(rules.Skip, nil, "%s: cannot tell whether it defines table <%s>: a quote or brace in it is not closed", path, d.table.Name)
			case c.includes > 0:
				say(rules.Skip, nil, "%s: cannot tell whether it defines table <%s>: line %d includes another file", path, d.table.Name, c.includes)
			case c.named > 0:
				say(rules.Skip, nil, "%s: cannot tell whether it defines table <%s>: a macro names a table in line %d", path, d.table.Name, c.named)
			default:
				say(rules.Fail, []string{"add to it, above the rules:", d.line()}, "%s: does not define table <%s>", path, d.table.Name)
			}
			continue
		}
		t := lines[len(lines)-1]
		where := fmt.Sprintf("%s:%d: table <%s>", path, t.line, t.name)
		switch {
		case t.macro:
			say(rules.Skip, nil, "%s: cannot tell what it is loaded from: a macro is in the line", where)
		case t.fixed:
			say(rules.Fail, []string{"write instead:", d.line()}, "%s is const: it cannot be updated", where)
		case len(t.files) == 0:
			say(rules.Warn, []string{"write instead:", d.line()}, "%s is not loaded from %s: it is empty from a boot until the policy has been fetched", where, d.file)
		case len(t.files) != 1 || t.files[0] != d.file:
			say(rules.Fail, []string{"write instead:", d.line()}, "%s is loaded from %s, the policy is written to %s", where, strings.Join(t.files, ", "), d.file)
		case !t.persist:
			say(rules.Warn, []string{"write instead:", d.line()}, "%s is not persist: it goes with the last rule that names it", where)
		default:
			say(rules.OK, nil, "%s is loaded from %s", where, d.file)
		}
	}
	for _, l := range c.limits {
		if l.name == pfioctl.LimitTableEntries.String() && first > 0 && l.line > first {
			say(rules.Fail, []string{fmt.Sprintf("move the line above line %d", first)},
				"%s:%d: `set limit %s` stands below a table line, where it comes too late for the table", path, l.line, l.name)
		}
	}
	return out
}
