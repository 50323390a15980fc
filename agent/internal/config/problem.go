package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxProblems bounds how many errors, and how many warnings, one file gives: a
// file of another kind altogether should not fill the terminal.
const maxProblems = 20

// Error is one thing in a configuration that is refused.
type Error struct {
	File string // as given to Load or Parse
	Line int    // from 1; 0 where no line is at fault, as for a missing key
	Key  string // empty where no key is at fault
	Text string // what is wrong and what to write instead: one line, without secrets
}

// Error returns "file:line: key: text", without the parts that are not known.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		b.WriteString(":" + strconv.Itoa(e.Line))
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Text)
	return b.String()
}

// Errors is what Load and Parse return for a configuration that is refused: everything that is wrong with it, in
// the order of the lines, then what is missing.
type Errors []*Error

// Error returns one line for each error.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Warning is one thing in a configuration that is accepted and probably not meant.
type Warning struct {
	Error
	// Slip: something that the configuration should do is not done until this is corrected.
	Slip bool
}

// String returns the line that Error.Error returns.
func (w Warning) String() string { return w.Error.Error() }

// problems collects what is wrong with one file.
type problems struct {
	file     string
	errs     Errors
	warnings []Warning
	unread   bool // not all of the file was read: what is missing may be in the rest
}

func (p *problems) problem(line int, key, format string, args []any) Error {
	return Error{p.file, line, brief(key), fmt.Sprintf(format, args...)}
}

func (p *problems) errorf(line int, key, format string, args ...any) {
	e := p.problem(line, key, format, args)
	p.errs = append(p.errs, &e)
}

func (p *problems) warnf(line int, key, format string, args ...any) {
	p.warnings = append(p.warnings, Warning{p.problem(line, key, format, args), false})
}

// slipf is warnf for a slip.
func (p *problems) slipf(line int, key, format string, args ...any) {
	p.warnings = append(p.warnings, Warning{p.problem(line, key, format, args), true})
}

// full reports whether there is no use in reading on.
func (p *problems) full() bool { return len(p.errs) > maxProblems }

// result returns everything in the order of the lines. The error is nil when there is none.
func (p *problems) result() ([]Warning, error) {
	byLine := func(a, b int) int { return cmp.Compare(uint(a)-1, uint(b)-1) } // no line: last
	slices.SortStableFunc(p.errs, func(a, b *Error) int { return byLine(a.Line, b.Line) })
	slices.SortStableFunc(p.warnings, func(a, b Warning) int { return byLine(a.Line, b.Line) })
	if more := len(p.warnings) - maxProblems; more > 0 {
		rest := Warning{Error: Error{File: p.file, Text: fmt.Sprintf("%d more warnings", more)}}
		p.warnings = append(p.warnings[:maxProblems], rest)
	}
	if p.full() {
		p.errs = append(p.errs[:maxProblems], &Error{File: p.file, Text: "more errors follow: is this a threatstop.conf?"})
	}
	if len(p.errs) == 0 {
		return p.warnings, nil
	}
	return p.warnings, p.errs
}
