package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxProblems bounds how many errors, and how many warnings, one file gives: a
// file of another kind altogether should not fill the terminal.
const maxProblems = 20

// Problem is one thing in a configuration that is refused, or accepted and probably not meant.
type Problem struct {
	File string // as given to Load or Parse
	Line int    // from 1; 0 where no line is at fault, as for a missing key
	Key  string // empty where no key is at fault
	Text string // what is wrong and what to write instead: one line, without secrets
	// Slip, of a warning: something that the configuration should do is not done until this is corrected.
	Slip bool
}

// Error returns "file:line: key: text", without the parts that are not known.
func (p Problem) Error() string {
	at := p.File
	if p.Line > 0 {
		at += fmt.Sprintf(":%d", p.Line)
	}
	if p.Key != "" {
		at += ": " + p.Key
	}
	return at + ": " + p.Text
}

// Errors is what Load and Parse return for a configuration that is refused: everything that is wrong with it, in
// the order of the lines, then what is missing.
type Errors []Problem

// Error returns one line for each error.
func (e Errors) Error() string {
	var lines []string
	for _, p := range e {
		lines = append(lines, p.Error())
	}
	return strings.Join(lines, "\n")
}

// problems collects what is wrong with one file.
type problems struct {
	file     string
	errs     Errors
	warnings []Problem
	unread   bool // not all of the file was read: what is missing may be in the rest
}

func (p *problems) errorf(line int, key, format string, args ...any) {
	p.errs = append(p.errs, Problem{p.file, line, brief(key), fmt.Sprintf(format, args...), false})
}

func (p *problems) warnf(slip bool, line int, key, format string, args ...any) {
	p.warnings = append(p.warnings, Problem{p.file, line, brief(key), fmt.Sprintf(format, args...), slip})
}

// full reports whether there is no use in reading on.
func (p *problems) full() bool { return len(p.errs) > maxProblems }

// result returns everything in the order of the lines. The error is nil when there is none.
func (p *problems) result() ([]Problem, error) {
	byLine := func(a, b Problem) int { return cmp.Compare(uint(a.Line)-1, uint(b.Line)-1) } // no line: last
	slices.SortStableFunc(p.errs, byLine)
	slices.SortStableFunc(p.warnings, byLine)
	if more := len(p.warnings) - maxProblems; more > 0 {
		p.warnings = append(p.warnings[:maxProblems], Problem{File: p.file, Text: fmt.Sprintf("%d more warnings", more)})
	}
	if p.full() {
		p.errs = append(p.errs[:maxProblems], Problem{File: p.file, Text: "more errors follow: is this a threatstop.conf?"})
	}
	if len(p.errs) == 0 {
		return p.warnings, nil
	}
	return p.warnings, p.errs
}
