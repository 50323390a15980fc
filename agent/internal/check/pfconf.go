package check

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

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

// words finds the words, quoted strings, signs and comments of pf.conf (pfctl's parse.y: yylex), and
// line ends: NUL stands for one that a backslash hides.
var words = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`#[^\n]*|"[^"]*"?|'[^']*'?|[{}()<>=!\n\x00]|[^\s,#"'{}()<>=!\x00]+`)
})

// scanPfConf reads the statements of pf.conf: each ends with a line that does not end in a backslash,
// outside of braces.
func scanPfConf(text string) pfConf {
	var c pfConf
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\x00", " "), "\\\n", "\x00")
	var statement []token
	line, start, depth := 1, 0, 0
	for _, word := range words().FindAllString(text+"\n", -1) {
		switch word[0] {
		case '#', 0:
		case '\n':
			if depth <= 0 && len(statement) > 0 {
				c.statement(start, statement)
				statement = nil
			}
			depth = max(depth, 0)
		default:
			if len(statement) == 0 {
				start = line
			}
			t := token{text: word}
			if t.quoted = word[0] == '"' || word[0] == '\''; t.quoted {
				inner, closed := strings.CutSuffix(word[1:], word[:1])
				c.broken = c.broken || !closed
				t.text = strings.NewReplacer("\n", "", "\x00", "").Replace(inner) // in a string a line end counts for nothing
			}
			statement = append(statement, t)
			if t.is("{") {
				depth++
			} else if t.is("}") {
				depth--
			}
		}
		line += strings.Count(word, "\n") + strings.Count(word, "\x00")
	}
	if len(statement) > 0 { // a brace or a string that is not closed
		c.broken = c.broken || depth > 0
		c.statement(start, statement)
	}
	return c
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
// is reported with the headroom, by the numbers.
func judgePfConf(path, text string, tables []definition) []rules.Finding {
	c := scanPfConf(text)
	var out []rules.Finding
	say := func(l rules.Level, do []string, format string, args ...any) {
		out = append(out, rules.Finding{Level: l, Text: fmt.Sprintf(format, args...), Do: do})
	}
	for _, d := range tables {
		var t tableLine // the last that defines it
		for _, x := range c.tables {
			if x.name == d.table.Name {
				t = x
			}
		}
		unknown := fmt.Sprintf("%s: not known whether it defines table <%s>: ", path, d.table.Name)
		where := fmt.Sprintf("%s:%d: table <%s>", path, t.line, t.name)
		instead := []string{"write instead:", d.line()}
		switch {
		case t.line == 0 && !d.need:
		case t.line == 0 && c.broken:
			say(rules.Skip, nil, "%sa quote or brace in it is not closed", unknown)
		case t.line == 0 && c.includes > 0:
			say(rules.Skip, nil, "%sline %d includes another file", unknown, c.includes)
		case t.line == 0 && c.named > 0:
			say(rules.Skip, nil, "%sa macro names a table in line %d", unknown, c.named)
		case t.line == 0:
			say(rules.Fail, []string{"add to it, above the rules:", d.line()}, "%s: does not define table <%s>", path, d.table.Name)
		case t.macro:
			say(rules.Skip, nil, "%s: not known what it is loaded from: a macro is in the line", where)
		case t.fixed:
			say(rules.Fail, instead, "%s is const: it cannot be updated", where)
		case len(t.files) == 0:
			say(rules.Warn, instead, "%s is not loaded from %s: it is empty from a boot until the policy has been fetched", where, d.file)
		case len(t.files) != 1 || t.files[0] != d.file:
			say(rules.Fail, instead, "%s is loaded from %s, the policy is written to %s", where, strings.Join(t.files, ", "), d.file)
		case !t.persist:
			say(rules.Warn, instead, "%s is not persist: it goes with the last rule that names it", where)
		default:
			say(rules.OK, nil, "%s is loaded from %s", where, d.file)
		}
	}
	for _, l := range c.limits {
		if l.name == pfioctl.LimitTableEntries.String() && len(c.tables) > 0 && l.line > c.tables[0].line {
			say(rules.Fail, []string{fmt.Sprintf("move the line above line %d", c.tables[0].line)},
				"%s:%d: `set limit %s` stands below a table line, where it comes too late for the table", path, l.line, l.name)
		}
	}
	return out
}
