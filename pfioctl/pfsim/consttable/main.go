// Command consttable makes a table that is const in pf's main ruleset, empty, to try on
// an agent what it makes of one. pfctl(8) makes such tables only with a whole ruleset;
// this asks for the table alone, and no rule is loaded. It fails where there is a table
// of that name. "pfctl -t name -T kill" removes it.
//
//	consttable name
package main

import (
	"fmt"
	"io"
	"os"

	"example.org/threatstopd/pfioctl"
)

func main() {
	os.Exit(run(os.Args[1:], pfioctl.Open, os.Stderr))
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func run(args []string, open func() (*pfioctl.PF, error), stderr io.Writer) int {
	if len(args) != 1 || args[0] == "" || args[0][0] == '-' {
		fmt.Fprintln(stderr, "usage: consttable name")
		return exitUsage
	}
	pf, err := open()
	if err == nil {
		defer pf.Close()
		var added int
		// DIOCRADDTABLES takes each flag that a user may set (pf_table.c:
		// pfr_add_tables). Of a table that is there it changes nothing.
		added, err = pf.AddTables(pfioctl.TablePersist|pfioctl.TableConst, pfioctl.Table{Name: args[0]})
		if err == nil && added != 1 {
			err = fmt.Errorf("table %s: is there already", args[0])
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "consttable: %v\n", err)
		return exitFailed
	}
	return exitOK
}
