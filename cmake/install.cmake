# What `cmake --install` puts where: the headers, a package for find_package, one for pkg-config, and
# the licence.
# SPDX-License-Identifier: Apache-2.0
include(CMakePackageConfigHelpers)
set(package_folder ${CMAKE_INSTALL_DATADIR}/cmake/finegrain)

list(TRANSFORM finegrain_formats PREPEND finegrain_kernels_ OUTPUT_VARIABLE frozen_kernels)
# Relative even where it lies elsewhere: CMake 3.25 exports any folder of headers as one in the prefix.
file(RELATIVE_PATH headers ${CMAKE_INSTALL_PREFIX} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
install(TARGETS finegrain finegrain_kernels ${frozen_kernels} EXPORT finegrain
  FILE_SET HEADERS DESTINATION ${headers})
install(EXPORT finegrain NAMESPACE finegrain:: FILE finegrainTargets.cmake
  DESTINATION ${package_folder})
configure_package_config_file(cmake/finegrainConfig.cmake.in finegrainConfig.cmake
  INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(finegrainConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
# Relative to the file where they can be, so that the installed tree may be moved.
file(RELATIVE_PATH finegrain_prefix
  ${CMAKE_INSTALL_FULL_DATADIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
set(finegrain_includedir "\${prefix}")
cmake_path(APPEND finegrain_includedir ${CMAKE_INSTALL_INCLUDEDIR})
configure_file(cmake/finegrain.pc.in finegrain.pc @ONLY)
install(FILES
  ${PROJECT_BINARY_DIR}/finegrainConfig.cmake ${PROJECT_BINARY_DIR}/finegrainConfigVersion.cmake
  cmake/finegrain_cuda.cmake cmake/finegrain_isa.cmake cmake/finegrain_isolate.cmake
  DESTINATION ${package_folder})
install(FILES ${PROJECT_BINARY_DIR}/finegrain.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/finegrain)
