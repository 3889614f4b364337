// Command bao is the OpenBao server and command line for the end-to-end tests.
//
// OpenBao publishes no package of its own for pip or cargo, so the tests build
// it from its Go module; everything of interest is in that module.
package main

import (
	"os"

	"github.com/openbao/openbao/command"
)

func main() {
	os.Exit(command.Run(os.Args[1:]))
}
