package check

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"example.org/threatstopd/agent/internal/rules"
	"example.org/threatstopd/pfioctl"
)

// A statement is one of pf.conf. Of a quoted word the first quote is kept, so that it is no keyword, sign or macro.
type statement struct {
	line  int
	words []string
}

// words finds the words, quoted strings, signs and comments of pf.conf (pfctl's parse.y: yylex), and
// line ends: NUL stands for one that a backslash hides.
var words = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`#[^\n]*|"[^"]*"?|'[^']*'?|[{}()<>=!\n\x00]|[^\s,#"'{}()<>=!\x00]+`)
})

// scanPfConf reads the statements of pf.conf: each ends with a line that does not end in a backslash, outside
// of braces. Macros and included files are not followed. broken says that a quote or a brace is not closed.
func scanPfConf(text string) (all []statement, broken bool) {
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\x00", " "), "\\\n", "\x00")
	unbroken := strings.NewReplacer("\n", "", "\x00", "") // in a string a line end counts for nothing
	var s statement
	line, depth := 1, 0
	for _, word := range words().FindAllString(text+"\n", -1) {
		switch word[0] {
		case '#', 0:
		case '\n':
			if depth = max(depth, 0); depth == 0 && len(s.words) > 0 {
				all, s = append(all, s), statement{}
			}
		default:
			if len(s.words) == 0 {
				s.line = line
			}
			clean := word
			if quote := word[:1]; quote == `"` || quote == "'" {
				inner, closed := strings.CutSuffix(word[1:], quote)
				clean, broken = quote+unbroken.Replace(inner), broken || !closed
			}
			s.words = append(s.words, clean)
			depth += map[string]int{"{": 1, "}": -1}[clean]
		}
		line += strings.Count(word, "\n") + strings.Count(word, "\x00")
	}
	if len(s.words) > 0 {
		all, broken = append(all, s), broken || depth > 0
	}
	return all, broken
}

// table returns the name of the table that the statement defines.
func (s *statement) table() (name string, ok bool) {
	if w := s.words; len(w) > 3 && w[0] == "table" && w[1] == "<" && w[3] == ">" {
		return unquote(w[2]), true
	}
	return "", false
}

func unquote(word string) string { return strings.TrimLeft(word, `"'`) }

// A definition is a table as pf.conf has to define it.
type definition struct {
	table pfioctl.Table
	file  string
	need  bool // rules depend on it; else it is only of use
}

func (d *definition) line() string {
	return fmt.Sprintf("table <%s> persist file %q", d.table.Name, d.file)
}

// judge returns what is to be found about a statement that defines the table.
func (d *definition) judge(s statement) (l rules.Level, text string) {
	var files []string
	depth := 0
	persist, fixed, macro := false, false, false
	for i, w := range s.words[4:] {
		switch {
		case w == "{":
			depth++
		case w == "}":
			depth--
		case w[0] == '$':
			macro = true
		case depth == 0 && s.words[3+i] == "file":
			files = append(files, unquote(w))
		case depth == 0:
			persist, fixed = persist || w == "persist", fixed || w == "const"
		}
	}
	switch {
	case macro:
		return rules.Skip, ": not known what it is loaded from: a macro is in the line"
	case fixed:
		return rules.Fail, " is const: it cannot be updated"
	case len(files) == 0:
		return rules.Warn, fmt.Sprintf(" is not loaded from %s: it is empty from a boot until the policy has been fetched", d.file)
	case !slices.Equal(files, []string{d.file}):
		return rules.Fail, fmt.Sprintf(" is loaded from %s, the policy is written to %s", strings.Join(files, ", "), d.file)
	case !persist:
		return rules.Warn, " is not persist: it goes with the last rule that names it"
	}
	return rules.OK, " is loaded from " + d.file
}

// judgePfConf checks the lines of pf.conf about tables. What limit they need is reported with the headroom, by
// the numbers.
func judgePfConf(path, text string, tables []definition) (out []rules.Finding) {
	say := func(l rules.Level, do []string, format string, args ...any) {
		out = append(out, rules.Finding{Level: l, Text: path + fmt.Sprintf(format, args...), Do: do})
	}
	all, broken := scanPfConf(text)
	unknown, first := "", 0 // why a table may be defined that is not seen; the first line that defines one
	if broken {
		unknown = "a quote or brace in it is not closed"
	}
	last := make(map[string]statement)
	for _, s := range all {
		name, ok := s.table()
		if ok {
			last[name], first = s, cmp.Or(first, s.line)
		}
		if strings.HasPrefix(name, "$") {
			unknown = cmp.Or(unknown, fmt.Sprintf("a macro names a table in line %d", s.line))
		} else if s.words[0] == "include" {
			unknown = cmp.Or(unknown, fmt.Sprintf("line %d includes another file", s.line))
		}
	}
	for _, d := range tables {
		s, ok := last[d.table.Name]
		switch {
		case ok:
			level, what := d.judge(s)
			var do []string
			if level > rules.Skip {
				do = []string{"write instead:", d.line()}
			}
			say(level, do, ":%d: table <%s>%s", s.line, d.table.Name, what)
		case !d.need:
		case unknown != "":
			say(rules.Skip, nil, ": not known whether it defines table <%s>: %s", d.table.Name, unknown)
		default:
			say(rules.Fail, []string{"add to it, above the rules:", d.line()}, ": does not define table <%s>", d.table.Name)
		}
	}
	limit := pfioctl.LimitTableEntries.String()
	for _, s := range all {
		if w := s.words; len(w) > 2 && w[0] == "set" && w[1] == "limit" && slices.Contains(w, limit) && first > 0 && s.line > first {
			say(rules.Fail, []string{fmt.Sprintf("move the line above line %d", first)},
				":%d: `set limit %s` stands below a table line, where it comes too late for the table", s.line, limit)
		}
	}
	return out
}
